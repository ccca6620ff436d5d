"""kubectl as this package calls it: JSON in and out, deadlines, and its errors in our words."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from ...core.errors import BadInputError
from .errors import error_of, warnings_in

OLDEST_KUBECTL: Final = (1, 29)
"""One minor version before the oldest supported server: kubectl supports no larger difference."""

OLDEST_SERVER: Final = (1, 30)
"""The first version in which a preStop hook may sleep."""

FIELD_MANAGER: Final = "nemo-deploy"

REQUEST_S: Final = 20
"""How long the API server may take to answer one request."""

CALL_S: Final = 120
"""How long kubectl may take as a whole: it asks for the API's resources first."""

_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call of kubectl gave."""

    code: int
    out: str
    err: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the API server warned of."""
        return warnings_in(self.err)

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The API objects that were printed as JSON: those of a list, or one."""
        document = json.loads(self.out or "{}")
        items: list[dict[str, Any]] = document.get("items", [document] if document else [])
        return items


class Kubectl:
    """kubectl for one context (None: that of the pod it runs in) and namespace."""

    def __init__(self, binary: str, context: str | None, namespace: str) -> None:
        self.context, self.namespace = context, namespace
        self._binary = binary

    @classmethod
    def find(cls, context: str | None = None, namespace: str | None = None) -> Kubectl:
        """kubectl of this machine, for a context of its configuration (default: the current one).

        Raises `BadInputError` where kubectl is missing, or where there is no such context.
        """
        binary = shutil.which("kubectl")
        if binary is None:
            raise BadInputError(
                "kubectl is missing; install it (https://kubernetes.io/docs/tasks/tools), version "
                f"{_text(OLDEST_KUBECTL)} or later"
            )
        view = _run([binary, "config", "view", "--output=json"])
        if view.code:
            raise error_of(view.err, "kubectl config view")
        name, default = _context(json.loads(view.out or "{}"), context)
        return cls(binary, name, namespace or default)

    @property
    def words(self) -> tuple[str, ...]:
        """The beginning of a command line that a person types to do something here."""
        context = ("--context", self.context) if self.context else ()
        return ("kubectl", *context, "--namespace", self.namespace)

    def typed(self, *arguments: str) -> str:
        """The command line that a person types for `arguments`."""
        return shlex.join([*self.words, *arguments])

    def require_supported(self) -> str:
        """The server's version. Raises `BadInputError` where kubectl or the server is too old, or
        where no server answers."""
        answer = self.call("version", "--output=json", good=(0, 1))
        versions = json.loads(answer.out) if answer.out.startswith("{") else {}
        _require(versions.get("clientVersion"), "kubectl", OLDEST_KUBECTL)
        if "serverVersion" not in versions:
            raise error_of(answer.err, self.typed("version"))
        return _require(versions["serverVersion"], "the cluster's Kubernetes", OLDEST_SERVER)

    def call(
        self,
        *arguments: str,
        good: Iterable[int] = (0,),
        stdin: str | None = None,
        finish: bool = False,
    ) -> Answer:
        """Call kubectl. Where `finish`, an interrupt waits until the call has ended.

        Raises one of `core.errors` for an exit code that is not `good`.
        """
        limit = f"--request-timeout={REQUEST_S}s"
        answer = _run(self.command(limit, *arguments), stdin, finish)
        if answer.code not in good:
            raise error_of(answer.err or answer.out, self.typed(*arguments))
        return answer

    def command(self, *arguments: str) -> list[str]:
        """The command line of a call that goes on, for whoever starts it."""
        return [self._binary, *self._scope, *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a call that goes on, with pipes for its three streams."""
        pipe = subprocess.PIPE
        command = self.command(*arguments)
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )

    @property
    def _scope(self) -> list[str]:
        context = [f"--context={self.context}"] if self.context else []
        return [*context, f"--namespace={self.namespace}"]

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects that a call prints as JSON: those of a list, or one."""
        return self.call(*arguments, "--output=json").objects


def _run(command: list[str], stdin: str | None = None, finish: bool = False) -> Answer:
    """Run kubectl in a session of its own, so that Ctrl-C reaches this process only."""
    environment = {k: v for k, v in os.environ.items() if k != "KUBECTL_EXTERNAL_DIFF"}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        env=environment,
    ) as process:
        try:
            out, err = process.communicate(stdin, CALL_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise BadInputError(
                f"kubectl has not ended within {CALL_S} s ({shlex.join(command[1:])}); check the "
                "connection to the cluster"
            ) from None
        except BaseException:
            if finish:
                process.communicate()
            else:
                process.kill()
            raise
    return Answer(process.returncode, out, err)


def _context(config: dict[str, Any], wanted: str | None) -> tuple[str | None, str]:
    """The context to use, and its namespace. Raises `BadInputError`."""
    contexts = {row["name"]: row.get("context") or {} for row in config.get("contexts") or ()}
    name = wanted or config.get("current-context") or None
    if name is None and not contexts and "KUBERNETES_SERVICE_HOST" in os.environ:
        own = _SERVICE_ACCOUNT
        return None, own.read_text(encoding="utf-8").strip() if own.exists() else "default"
    if name is None:
        raise BadInputError(
            "kubectl has no current context; name one with --context, or set KUBECONFIG"
            f"{_known(contexts)}"
        )
    if name not in contexts:
        near = get_close_matches(name, contexts, 1)
        hint = f"; did you mean {near[0]}?" if near else _known(contexts)
        raise BadInputError(f"--context {name}: kubectl has no such context{hint}")
    return name, contexts[name].get("namespace") or "default"


def _known(contexts: Iterable[str]) -> str:
    names = ", ".join(sorted(contexts))
    return f"; known are {names}" if names else "; its configuration (KUBECONFIG) has no contexts"


def _require(version: dict[str, Any] | None, what: str, oldest: tuple[int, int]) -> str:
    """The version in words. Raises `BadInputError` for one that is older than `oldest`."""
    text = str((version or {}).get("gitVersion", ""))
    numbers = re.match(r"v(\d+)\.(\d+)", text)
    if not numbers or (int(numbers[1]), int(numbers[2])) < oldest:
        raise BadInputError(
            f"{what} has version {text or '(unknown)'}; {_text(oldest)} or later is needed"
        )
    return text


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
