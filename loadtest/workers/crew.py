"""The coordinator's side: workers that send a test's requests together."""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from collections.abc import Awaitable, Iterable, Sequence
from typing import Final, TypeVar

from ..client_clock import Disturbance
from ..sender import Destination, Record
from ..share import Held, InFlight, Share, merged
from . import messages as say
from .process import WorkerFailedError, WorkerProcess

_LEAST_DELAY_S: Final = 0.05
_ROUND_TRIPS: Final = 5
"""A level starts so many round trips after the message that starts it, so that it has arrived."""

_Result = TypeVar("_Result")


class Crew:
    """A `Sender`: workers, each started with one of `argvs`, that divide each level among them."""

    def __init__(self, argvs: Sequence[Sequence[str]], destination: Destination) -> None:
        self._argvs, self._destination = argvs, destination
        self._workers: list[WorkerProcess] = []
        self._record: Record = lambda samples: None
        self.processes = len(argvs)
        self.url = destination.url
        self.died = asyncio.Event()
        self._death = ""

    @property
    def death(self) -> str:
        """See `Sender`."""
        return self._death

    async def check(self) -> str:
        """Start all workers, too. Also raises `WorkerFailedError`; see `Sender`."""
        await _all(self._start(number, argv) for number, argv in enumerate(self._argvs, start=1))
        for worker in self._workers:
            worker.say(say.Connect(self._destination))
        answers = await _all(worker.reply(say.Connected) for worker in self._workers)
        self.url = answers[0].url
        return answers[0].model

    async def hold(self, share: Share, streams: int, end: asyncio.Event, record: Record) -> Held:
        """See `Sender`. Samples are received about half a second after the requests have ended.

        A worker that fails leaves what it told before, and sets `died`.
        """
        self._record = record
        parts = [share.part(index, self.processes) for index in range(self.processes)]
        try:
            trip = await self._prepare(parts, -(-streams // self.processes))
        except WorkerFailedError:
            return merged([], cpu=0.0, starts_within_s=0.0)
        began, cpu = time.perf_counter(), time.process_time()
        start = began + max(_LEAST_DELAY_S, _ROUND_TRIPS * trip)
        for worker in self._workers:
            worker.say(say.Start(start - time.perf_counter()))
        stopping = asyncio.create_task(self._stop_at(end))
        try:
            held = await _all(self._held(worker, start) for worker in self._workers)
        finally:
            stopping.cancel()
        busy = (time.process_time() - cpu) / (time.perf_counter() - began)
        return merged(held, cpu=busy, starts_within_s=trip)

    def in_flight(self) -> Sequence[InFlight]:
        """See `Sender`."""
        return list(itertools.chain.from_iterable(each.in_flight for each in self._workers))

    async def close(self) -> None:
        """See `Sender`."""
        await _all(worker.close() for worker in self._workers)

    async def _start(self, number: int, argv: Sequence[str]) -> None:
        worker = await WorkerProcess.started(
            argv,
            f"sending process {number} of {self.processes}",
            on_samples=lambda samples: self._record(samples),
            on_death=self._die,
        )
        self._workers.append(worker)
        await worker.greet()

    async def _prepare(self, parts: Sequence[Share], streams: int) -> float:
        """Get all workers ready for their parts; the longest round trip in seconds."""
        for worker, part in zip(self._workers, parts, strict=True):
            worker.prepare(part, streams)
        await _all(worker.reply(say.Ready) for worker in self._workers)
        return max(await _all(worker.round_trip() for worker in self._workers))

    def _die(self, death: str) -> None:
        """Whoever notices first decides."""
        if not self.died.is_set():
            self._death = death
            self.died.set()

    async def _held(self, worker: WorkerProcess, start: float) -> Held:
        try:
            return (await worker.reply(say.Ended)).held(worker.samples)
        except WorkerFailedError:
            nothing = Disturbance(array("d"), cpu=0.0, machine=None, load=0.0)
            return Held(worker.samples, time.perf_counter() - start, [], None, nothing)

    async def _stop_at(self, end: asyncio.Event) -> None:
        await end.wait()
        for worker in self._workers:
            worker.say(say.Stop())


async def _all(work: Iterable[Awaitable[_Result]]) -> list[_Result]:
    """The results of all; raises the first failure once all have ended."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
