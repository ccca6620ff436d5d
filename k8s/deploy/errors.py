"""What kubectl and the API server say when they fail, in our words: one table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ...core.errors import BadInputError, CheckFailedError, NemoDeployError

_LOG_LINE: Final = re.compile(r"[IWE]\d{4} [\d:.]+ +\d+ \S+\] ")
"""How a line of kubectl's own log begins, which says in other words what its last line says."""

_WARNING: Final = "Warning: "


class UnreachableError(BadInputError):
    """No API server answers."""


class ForbiddenError(BadInputError):
    """The user has no right to do this."""


class ConflictError(CheckFailedError):
    """Other programs own fields of the objects; `managers` are their names."""

    def __init__(self, message: str, managers: frozenset[str]) -> None:
        super().__init__(message)
        self.managers = managers


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of failure: how kubectl's text is recognized, and what is said of it. `message` is
    formatted with the pattern's groups, `text` (kubectl's own message) and `call`."""

    pattern: re.Pattern[str]
    kind: type[NemoDeployError]
    message: str


def _row(pattern: str, kind: type[NemoDeployError], message: str) -> Row:
    return Row(re.compile(pattern, re.S), kind, message)


TABLE: Final = (
    _row(
        r"exec: executable (?P<plugin>\S+) not found|exec plugin|getting credentials",
        BadInputError,
        "kubectl cannot log in: {text}; install the credential plugin that the context uses, and "
        "log in again",
    ),
    _row(
        r"Unauthorized|must be logged in|provide credentials|authentication required",
        BadInputError,
        "the cluster does not accept the credentials of this context ({text}); log in again",
    ),
    _row(
        r"x509: (?P<reason>[^\n]+)",
        BadInputError,
        "the cluster's certificate is not accepted: {reason}; fetch its credentials again",
    ),
    _row(
        r"connection to the server (?P<where>\S+) was refused|dial tcp (?P<at>[^\n]*)"
        r"|no such host|i/o timeout|TLS handshake timeout|Client\.Timeout|context deadline exceeded"
        r"|unexpected EOF|no route to host|network is unreachable|couldn't get current server API",
        UnreachableError,
        "no cluster answers: {text}; check the context (kubectl config current-context) and the "
        "network or VPN",
    ),
    _row(
        r'namespaces "(?P<name>[^"]+)" not found',
        BadInputError,
        "the namespace {name} does not exist; create it (kubectl create namespace {name}), or name "
        "another one with --namespace",
    ),
    _row(
        r'is forbidden: User "(?P<user>[^"]+)" cannot (?P<verb>\S+) resource "(?P<what>[^"]+)"'
        r'(?: in API group "(?P<group>[^"]*)")?(?: in the namespace "(?P<place>[^"]+)")?',
        ForbiddenError,
        "{user} may not {verb} {what}: {text}; ask an administrator for a role that allows it",
    ),
    _row(
        r"Apply failed with \d+ conflicts?: (?P<conflicts>.+?)(?:\nPlease review|\Z)",
        CheckFailedError,
        "other programs own fields that the bundle sets: {owners}. Stop the other program from "
        "setting them; or let nemo-deploy own them, which also begins the rollout, and run this "
        "command again to watch it:\n  {take_over}",
    ),
    _row(
        r'(?P<object>\w+(?:\.\S+)? "[^"]+") is invalid: .*field is immutable',
        CheckFailedError,
        "{object} cannot be changed in place ({text}); delete it (a claim loses what it holds) and "
        "run this command again",
    ),
    _row(
        r'no matches for kind "(?P<name>[^"]+)" in version "(?P<version>[^"]+)"',
        BadInputError,
        "the cluster does not know {name} of {version}; install what defines it (its CRD), or "
        "build without that option",
    ),
    _row(
        r'exec: "diff": executable file not found',
        BadInputError,
        "kubectl diff needs the program `diff`, which is missing here; install diffutils",
    ),
    _row(
        r"unknown flag: (?P<flag>\S+)",
        BadInputError,
        "this kubectl is too old: it does not know {flag}; install a newer one",
    ),
    _row(
        r"is invalid: |denied the request|is forbidden: |admission ",
        CheckFailedError,
        "the cluster refuses the manifests: {text}",
    ),
)
"""The first row whose pattern occurs decides."""


def error_of(text: str, call: str) -> NemoDeployError:
    """The error for a call of kubectl, a command line, that printed `text` and failed."""
    for row in TABLE:
        if match := row.pattern.search(text):
            groups = {name: value or "" for name, value in match.groupdict().items()}
            message = row.message.format(
                text=message_in(text), call=call, **_conflicts(groups, call), **groups
            )
            if "conflicts" in groups:
                return ConflictError(message, frozenset(_MANAGER.findall(groups["conflicts"])))
            return row.kind(message)
    return BadInputError(f"kubectl failed: {message_in(text) or 'without a message'} ({call})")


def message_in(text: str) -> str:
    """kubectl's own message: what it printed without its log, warnings and prefix, in one line."""
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and not _LOG_LINE.match(line) and not line.startswith(_WARNING)
    ]
    joined = " ".join(lines) or " ".join(text.split())
    return re.sub(r"^(?:error: |Error from server(?: \(\w+\))?: )", "", joined)


def warnings_in(text: str) -> tuple[str, ...]:
    """What the API server warned of, each once."""
    lines = [line.strip() for line in text.splitlines()]
    found = [line.removeprefix(_WARNING) for line in lines if line.startswith(_WARNING)]
    return tuple(dict.fromkeys(found))


_MANAGER: Final = re.compile(r'conflicts? with "(?P<manager>[^"]+)"(?: with subresource "[^"]*")?')


def _conflicts(groups: dict[str, str], call: str) -> dict[str, str]:
    """Who owns which fields, in words, and the command that takes them over."""
    if "conflicts" not in groups:
        return {}
    owners: list[str] = []
    parts = _MANAGER.split(groups["conflicts"])
    for manager, rest in zip(parts[1::2], parts[2::2], strict=True):
        paths = re.findall(r"\.\S+", re.sub(r"using \S+", "", rest))
        owners.append(f"{manager} owns {', '.join(paths)}")
    command = re.sub(r" --(?:dry-run=server|output=json)", "", call)
    return {"owners": "; ".join(owners), "take_over": f"{command} --force-conflicts"}


def is_about_rights(text: str) -> bool:
    """Whether kubectl failed because the user has no right to do this."""
    return isinstance(error_of(text, ""), ForbiddenError)
