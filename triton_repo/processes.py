"""Child processes that live and die together: the side of the process that starts them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

from .supervisor import remove_leftovers

_MARGIN_SECONDS: Final = 10.0
"""How much later than the children the supervisor has ended, at most."""


@dataclass(frozen=True, slots=True)
class Child:
    """A program to run, with its whole environment. `name` is what the log calls it."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


class Supervised:
    """Runs `children` in one process group, under a supervisor (see `supervisor`).

    They end together: when one ends, when this process ends (even if it is killed), and with
    `stop`. Directory `scratch` and regions of shared memory whose names begin with `region_prefix`
    are removed then. Output goes to `log`. `grace` is how many seconds they may take to end.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        scratch: Path,
        region_prefix: str,
        grace: float,
        log: IO[bytes],
    ) -> None:
        self._scratch, self._region_prefix, self._grace = scratch, region_prefix, grace
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("supervisor.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={},
            start_new_session=True,
        )
        order = {
            "children": [asdict(child) for child in children],
            "scratch": str(scratch),
            "region_prefix": region_prefix,
            "grace": grace,
        }
        self._tell(json.dumps(order).encode() + b"\n")
        assert self._process.stdout is not None
        with self._process.stdout as pids:
            self.pids: list[int] = json.loads(pids.readline() or "[]")
            """Process ids, in the order of the children; none if a child could not be started."""

    @property
    def ended(self) -> bool:
        """Whether they have ended."""
        return self._process.poll() is not None

    def wait(self) -> None:
        """Wait until they end."""
        self._process.wait()

    def stop(self) -> None:
        """Ask the children to end, wait for it, and kill them where they take too long.

        What interrupts the wait (Ctrl-C) kills them at once. Does nothing if they have ended.
        """
        try:
            self._tell(b"\n")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._grace + _MARGIN_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the children at once."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_MARGIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # Only where the supervisor was killed is anything left to remove.
        remove_leftovers(self._scratch, self._region_prefix)

    def _tell(self, words: bytes) -> None:
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(words)
            self._process.stdin.flush()
