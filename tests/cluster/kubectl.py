"""kubectl for tests, and waiting for what it shows."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE_S = 90


def wait_for(what: str, ready: Callable[[], Any], seconds: float = DEADLINE_S) -> Any:
    """The first true result of `ready`; fails naming `what` when there is none in time."""
    end = time.monotonic() + seconds
    while not (result := ready()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return result


class Kubectl:
    """kubectl as the administrator of the test cluster."""

    def __init__(self, binary: Path, kubeconfig: Path) -> None:
        self.command = [str(binary), f"--kubeconfig={kubeconfig}"]

    def run(
        self, *arguments: str | Path, stdin: str | None = None, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """The completed process, whatever its exit status."""
        command = [*self.command, *map(str, arguments)]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False
        )

    def __call__(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """Standard output; fails where kubectl does, or where it warns."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stderr}"
        assert done.stderr == "", f"kubectl {' '.join(map(str, arguments))}: {done.stderr}"
        return str(done.stdout)

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """`kubectl get ... -o json` as a list of objects."""
        answer = json.loads(self("get", *arguments, "--output=json"))
        objects: list[dict[str, Any]] = answer.get("items", [answer])
        return objects

    @staticmethod
    def until(what: str, ready: Callable[[], Any]) -> Any:
        """Wait for a true result of `ready`, and return it."""
        return wait_for(what, ready)

    def apply(self, *objects: dict[str, Any]) -> None:
        document = {"apiVersion": "v1", "kind": "List", "items": objects}
        self("apply", "--filename=-", stdin=json.dumps(document))
