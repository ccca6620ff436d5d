"""Run one command and clean up after it: processes, shared memory and scratch directory.

Run as a script whose standard input is a pipe that only its parent holds open. When the pipe
closes, on purpose or because the parent was killed, the command gets SIGTERM, then SIGKILL. The
supervisor is a process of its own because Linux's parent-death signal is not enough: it is sent
when the starting *thread* ends, and it does not reach the Python backend's stubs. The first line it
prints is the command's process id.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Supervise; returns the command's exit status (128 + n if signal n ended it)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scratch", type=Path, required=True, help="removed at the end")
    parser.add_argument("--shm-prefix", required=True, help="files of /dev/shm removed at the end")
    parser.add_argument("--grace", type=float, required=True, help="seconds from TERM to KILL")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        return _supervise(options.command, options.grace)
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)
        for region in Path("/dev/shm").glob(f"{options.shm_prefix}*"):  # noqa: S108  no temporary file
            with contextlib.suppress(OSError):
                region.unlink()


def _supervise(command: list[str], grace: float) -> int:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        process_group=0,
        preexec_fn=_prepare_child,
    )
    print(process.pid, flush=True)
    try:
        while process.poll() is None and not _parent_is_gone():
            pass
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
    finally:
        # A stub that hangs outlives the server; kill the whole process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    return status if status >= 0 else 128 - status


def _prepare_child() -> None:
    """In the child: restore signal handlers, and die if the supervisor is killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _parent_is_gone() -> bool:
    """Wait 0.1 s; True once the parent's end of standard input is closed."""
    readable, _, _ = select.select([0], [], [], 0.1)
    return bool(readable) and not os.read(0, 1)


if __name__ == "__main__":
    sys.exit(main())
