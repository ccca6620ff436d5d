"""Process untrusted data in a child process with a time limit and a memory limit that always hold.

A regular expression or a big multiplication cannot be interrupted from within Python: a handler
runs only once the C code returns. Here the kernel ends the child, which handles one request a line.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from .contract import child_environment

_WALL_FACTOR: Final = 100
"""The limit counts processor time, so that a busy machine refuses nothing that is harmless. On the
clock a request may take so many times longer; that ends one that waits without computing."""

_CALM: Final = {"TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
"""Environment of a child: tokenizers start no thread pool and print no stack traces."""


_PACKAGES: Final = str(Path(__file__).parents[__name__.count(".")])
"""The folder that holds this package, under whatever name it was copied there."""

_START: Final = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__')"
)


def command(module: str, *arguments: str) -> list[str]:
    """A command that runs `module` in an interpreter of its own, which finds this package, too."""
    # -P: the working directory, which may be the checkpoint itself, is no place for modules.
    return [sys.executable, "-P", "-c", _START, _PACKAGES, module, *arguments]


class WorkError(Exception):
    """A request failed: the child refused it, ran past a limit or crashed. Says which."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take: processor seconds, and bytes of memory of the whole child."""

    seconds: float
    memory: int


class Worker:
    """A child process that runs `module` (which calls `serve`). Use it in a `with`.

    It starts with the first request, and anew after one that ended it.
    """

    def __init__(self, module: str, limits: Limits) -> None:
        self._module, self._limits = module, limits
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, request: object) -> Any:
        """The child's answer to `request`; both are JSON values. Raises `WorkError`."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise WorkError(self._cause_of_death(process))
        reply = json.loads(line)
        if "error" in reply:
            raise WorkError(reply["error"])
        return reply["value"]

    def _start(self) -> subprocess.Popen[bytes]:
        limits = (str(self._limits.seconds), str(self._limits.memory))
        return subprocess.Popen(
            command(self._module, *limits),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment() | _CALM,
        )

    def _cause_of_death(self, process: subprocess.Popen[bytes]) -> str:
        code = process.wait()
        self.close()
        if -code == signal.SIGPROF:
            return f"it took more than {self._limits.seconds:g} s of processor time"
        if -code == signal.SIGALRM:
            return f"it did not end within {self._limits.seconds * _WALL_FACTOR:g} s"
        return f"it needed more than {self._limits.memory >> 20} MiB of memory, or crashed ({code})"

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def serve(handle: Callable[[Any], Any]) -> None:
    """The child's side: answer requests with `handle` until there are no more.

    An exception of `handle` is the answer; the kernel ends a request that takes too long.
    """
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    alarms = (signal.SIGPROF, signal.SIGALRM)
    for alarm in alarms:
        signal.signal(alarm, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, alarms)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        _limit_time(seconds)
        reply = json.dumps(_reply(handle, line)).encode()
        _limit_time(0)
        sys.stdout.buffer.write(reply + b"\n")
        sys.stdout.buffer.flush()


def _limit_time(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * _WALL_FACTOR)


def _reply(handle: Callable[[Any], Any], line: bytes) -> dict[str, Any]:
    try:
        return {"value": handle(json.loads(line))}
    except MemoryError:
        return {"error": "it needed too much memory"}
    except BaseException as error:  # a panic of a library in Rust is no Exception
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}
