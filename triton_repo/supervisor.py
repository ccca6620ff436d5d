"""Run child processes that live and die together, and clean up after them.

Run as a script whose standard input is a pipe that only its parent holds open. The parent writes
one line of JSON (`Order`, as `processes.Supervised` writes it), and gets back a line with the
children's process ids. Any further byte asks the children to end: they get SIGTERM, and after
`grace` seconds SIGKILL. When the pipe closes, on purpose or because the parent was killed, they are
killed at once. When a child ends by itself, the others are killed, too.

All children and what they start are one process group, which is killed as a whole in the end. The
supervisor is a process of its own because Linux's parent-death signal is not enough: it is sent
when the starting *thread* ends, and it does not reach what the children started.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1

_INPUT: Final = 0
"""The file descriptor of standard input."""


def main() -> int:
    """Supervise; returns the exit status of the child that ended first, or of the first one that
    failed when they were asked to end (128 + n if signal n ended it)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    order = json.loads(io.FileIO(_INPUT, closefd=False).readline())
    try:
        return _supervise(order["children"], order["grace"])
    finally:
        remove_leftovers(Path(order["scratch"]), order["region_prefix"])


def remove_leftovers(scratch: Path, region_prefix: str) -> None:
    """Remove what dead children cannot: their files, and their regions of shared memory."""
    shutil.rmtree(scratch, ignore_errors=True)
    for region in Path("/dev/shm").glob(f"{region_prefix}*"):  # noqa: S108  no temporary file
        with contextlib.suppress(OSError):
            region.unlink()


def _supervise(children: Sequence[dict[str, Any]], grace: float) -> int:
    running: dict[int, subprocess.Popen[bytes]] = {}
    group = 0
    try:
        for child in children:
            process = _start(child, group)
            running[os.pidfd_open(process.pid)] = process
            group = group or process.pid
        print(json.dumps([process.pid for process in running.values()]), flush=True)
        first = _wait(list(running), grace)
    finally:
        # The leader is not reaped yet, so its number cannot be another group's.
        if group:
            os.killpg(group, signal.SIGKILL)
    statuses = {fd: _status(process) for fd, process in running.items()}
    if first is not None:
        name = children[list(running).index(first)]["name"]
        print(f"{name} ended with status {statuses[first]}", file=sys.stderr)
        return statuses[first]
    return next((status for status in statuses.values() if status), 0)


def _start(child: dict[str, Any], group: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        child["command"],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        env=child["environment"],
        process_group=group,
        preexec_fn=_prepare_child,
    )


def _prepare_child() -> None:
    """In the child: restore signal handlers, and die if the supervisor is killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait(children: list[int], grace: float) -> int | None:
    """Wait until the children (pidfds) may be killed; gives the one that ended by itself."""
    readable, _, _ = select.select([_INPUT, *children], [], [])
    ended = next((fd for fd in readable if fd != _INPUT), None)
    if ended is not None or not os.read(_INPUT, 1):
        return ended
    left = set(children)
    for fd in children:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while left and (seconds := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select([_INPUT, *left], [], [], seconds)
        if _INPUT in readable and not os.read(_INPUT, 1):
            break
        left.difference_update(readable)
    return None


def _status(process: subprocess.Popen[bytes]) -> int:
    status = process.wait()
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
