"""One worker, as the coordinator sees it."""

from __future__ import annotations

import asyncio
import shlex
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from ... import __version__
from ...core import errors
from ...core.errors import CheckFailedError
from ..sample import Sample
from ..share import InFlight, Share
from . import messages as say

MOST_SILENCE_S: Final = 30
"""A worker that says nothing for so long hangs: it is to say something twice a second."""
_END_TIMEOUT_S: Final = 3.0
_LAST_WORDS_S: Final = 1.0
_ERROR_LINES: Final = 5
_SHOWN: Final = 200
"""Characters of what a worker said that a message quotes."""
_PINGS: Final = 3

_ERRORS: Final[dict[str, type[errors.NemoDeployError]]] = {
    kind.__name__: kind for kind in (errors.UsageError, errors.RefusedError, errors.BadInputError)
}

_Reply = TypeVar("_Reply", bound=say.Message)


class WorkerFailedError(CheckFailedError):
    """A worker ended, hangs, or said what no worker says."""


class WorkerProcess:
    """A worker that was started. `name` says in messages which one.

    `samples` are those that it told of the present level, `in_flight` what it told last.
    `on_samples` receives the samples of each message, `on_death` why the server can no longer be
    reached.
    """

    def __init__(
        self,
        process: Process,
        name: str,
        *,
        on_samples: Callable[[Sequence[Sample]], None],
        on_death: Callable[[str], None],
    ) -> None:
        self._process, self._name = process, name
        self._on_samples, self._on_death = on_samples, on_death
        self._replies: asyncio.Queue[say.Message] = asyncio.Queue()
        self._failure: WorkerFailedError | None = None
        self._failed = asyncio.Event()
        self._silent_s = 0
        self._errors: deque[str] = deque(maxlen=_ERROR_LINES)
        self._reading_errors = asyncio.create_task(self._read_errors())
        self._tasks = [asyncio.create_task(work) for work in (self._read(), self._watch())]
        self.samples: list[Sample] = []
        self.in_flight: list[InFlight] = []

    @classmethod
    async def started(cls, argv: Sequence[str], name: str, **callbacks: Any) -> WorkerProcess:
        """Start a worker with the command `argv`. Raises `WorkerFailedError`."""
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                limit=say.LINE_LIMIT,
                start_new_session=True,  # Ctrl-C is for the coordinator
            )
        except OSError as error:
            raise WorkerFailedError(
                f"{name} cannot be started with {shlex.join(argv)}: {error}"
            ) from error
        return cls(process, name, **callbacks)

    def say(self, message: say.Message) -> None:
        """Send `message`."""
        assert self._process.stdin is not None
        self._process.stdin.write(say.line(message))

    async def reply(self, kind: type[_Reply]) -> _Reply:
        """The next answer, which must be of this `kind`.

        Raises `WorkerFailedError`, or what the worker was told when it tried the server.
        """
        reading = asyncio.create_task(self._replies.get())
        failing = asyncio.create_task(self._failed.wait())
        try:
            await asyncio.wait((reading, failing), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                assert self._failure is not None
                raise self._failure
            answer = reading.result()
        finally:
            reading.cancel()
            failing.cancel()
        if isinstance(answer, say.Refused):
            raise _ERRORS.get(answer.error, CheckFailedError)(answer.reason)
        if not isinstance(answer, kind):
            raise self._fail(f"answered {type(answer).__name__} in place of {kind.__name__}")
        return answer

    async def greet(self) -> None:
        """Wait until the worker works. Raises `WorkerFailedError`, also for another version."""
        hello = await self.reply(say.Hello)
        if (hello.protocol, hello.version) != (say.PROTOCOL, __version__):
            raise self._fail(
                f"is of nemo-deploy {hello.version} with protocol {hello.protocol}, this is "
                f"{__version__} with protocol {say.PROTOCOL}: install the same version there"
            )

    def prepare(self, share: Share, streams: int) -> None:
        """Give the worker its `share` of a level; it answers `Ready` once it is connected for so
        many `streams`."""
        self.samples, self.in_flight = [], []
        for work in share.work:
            self.say(say.Work(work))
        self.say(say.Level(streams, list(share.due), list(share.starts)))

    async def round_trip(self) -> float:
        """Seconds from a message to its answer, at best. Raises `WorkerFailedError`."""
        times = []
        for _ in range(_PINGS):
            began = time.perf_counter()
            self.say(say.Ping())
            await self.reply(say.Pong)
            times.append(time.perf_counter() - began)
        return min(times)

    async def close(self) -> None:
        """End the worker: it is to go by itself, else it is killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(0 if self._failure else _END_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        finally:
            for task in (*self._tasks, self._reading_errors):
                task.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        data = b""
        try:
            while data := await self._process.stdout.readline():
                self._silent_s = 0
                self._take(data)
        except ValueError as error:  # no JSON, no such message, or a line without end
            self._fail(f"said what no worker says ({error}): {data[:_SHOWN]!r}")
            return
        await self._process.wait()
        await asyncio.wait((self._reading_errors,), timeout=_LAST_WORDS_S)
        self._fail(f"ended with exit code {self._process.returncode}")

    def _take(self, data: bytes) -> None:
        """Raises `ValueError` where `data` is no message."""
        message = say.read_by_coordinator(data)
        match message:
            case say.Beat():
                samples = message.received()
                self.samples += samples
                self.in_flight = message.in_flight
                if samples:
                    self._on_samples(samples)
            case say.Died():
                self._on_death(message.death)
            case _:
                self._replies.put_nowait(message)

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with suppress(ValueError):  # a line without end
            while data := await self._process.stderr.readline():
                self._errors.append(data.decode(errors="replace").rstrip()[:_SHOWN])

    async def _watch(self) -> None:
        # Counted second by second: while this process itself does not run, nobody is silent.
        while self._silent_s < MOST_SILENCE_S:
            await asyncio.sleep(1)
            self._silent_s += 1
        self._fail(f"has said nothing for {MOST_SILENCE_S} s")

    def _fail(self, problem: str) -> WorkerFailedError:
        """The worker has this problem, unless it had one before."""
        if self._failure is None:
            said = "".join(f"\n  {line}" for line in self._errors)
            self._failure = WorkerFailedError(
                f"{self._name} {problem}" + (f". Its last messages:{said}" if said else "")
            )
            self._failed.set()
            self._on_death(str(self._failure))
        return self._failure
