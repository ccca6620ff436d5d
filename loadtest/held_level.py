"""Holds one level: a closed loop of clients, or arrivals on a schedule."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from .client import Client, History
from .client_clock import Disturbance, Monitor
from .config import Level
from .metrics import Window
from .prompts import Work
from .sample import Sample

_WATCH_EVERY_S: Final = 0.05


class HeldLevel:
    """Holds `level` until its requests have ended, the server is dead, or `stopped` is set.

    The clients of a closed loop begin one after the other within `ramp_s` seconds; the requests of
    an open loop are due at `schedule`, in seconds after the start. `hopeless` may end the level
    early, too: it receives the samples so far and the seconds since the start, many times a second.
    `notify` receives the requests that have ended, and how many of them failed.
    """

    def __init__(
        self,
        client: Client,
        level: Level,
        work: Iterator[Work],
        *,
        stopped: asyncio.Event,
        ramp_s: float = 0.0,
        schedule: Iterable[float] | None = None,
        hopeless: Callable[[Sequence[Sample], float], bool] | None = None,
        notify: Callable[[int, int], None] = lambda done, errors: None,
    ) -> None:
        self._client, self._level, self._work = client, level, work
        self._stopped, self._ramp_s, self._schedule = stopped, ramp_s, schedule
        self._hopeless, self._notify = hopeless, notify
        self._errors = 0
        self._first_ended: dict[int, float] = {}
        self._exhausted: float | None = None
        self._started = 0.0
        self.samples: list[Sample] = []
        self.duration_s = 0.0
        self.stopped_early = False
        self.disturbance: Disturbance | None = None

    async def run(self) -> None:
        """Fill `samples`, one for each request that was sent, `duration_s` and `disturbance`."""
        async with Monitor() as monitor:
            self._started = time.perf_counter()
            await self._run_until_ended()
            self.duration_s = time.perf_counter() - self._started
            self.disturbance = monitor.disturbance

    @property
    def steady(self) -> Window | None:
        """When all clients of the closed loop were busy: from when each has ended its first request
        until one found no further work. None for an open loop, and where less than one request for
        each client was sent in that time."""
        clients = self._level.concurrency
        if clients is None:
            return None
        if clients == 1:
            return Window(0.0, self.duration_s)
        if len(self._first_ended) < clients:
            return None
        end = self._exhausted if self._exhausted is not None else self.duration_s
        window = Window(max(self._first_ended.values()), end)
        sent = sum(window.holds(sample.due) for sample in self.samples)
        return window if sent >= clients else None

    async def _run_until_ended(self) -> None:
        load = self._closed_loop() if self._schedule is None else self._open_loop(self._schedule)
        work = asyncio.create_task(load)
        ends: list[asyncio.Task[Any]] = [
            asyncio.create_task(event.wait()) for event in (self._client.died, self._stopped)
        ]
        if self._hopeless:
            ends.append(asyncio.create_task(self._watch(self._hopeless)))
        try:
            await asyncio.wait((work, *ends), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, *ends):
                task.cancel()
            await asyncio.gather(work, *ends, return_exceptions=True)

    async def _watch(self, hopeless: Callable[[Sequence[Sample], float], bool]) -> None:
        while not hopeless(self.samples, self._now()):
            await asyncio.sleep(_WATCH_EVERY_S)
        self.stopped_early = True

    async def _closed_loop(self) -> None:
        clients = self._level.concurrency or 1
        numbers = iter(range(self._level.requests))

        async def one_client(index: int) -> None:
            await asyncio.sleep(index * self._ramp_s / clients)
            for _ in numbers:
                await self._send(time.perf_counter())
                self._first_ended.setdefault(index, self._now())
            if self._exhausted is None:
                self._exhausted = self._now()

        async with asyncio.TaskGroup() as group:
            for index in range(clients):
                group.create_task(one_client(index))

    async def _open_loop(self, schedule: Iterable[float]) -> None:
        async with asyncio.TaskGroup() as requests:
            for offset in schedule:
                due = self._started + offset
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                requests.create_task(self._send(due))

    async def _send(self, due: float) -> None:
        """Send the next work, and what follows it, as long as answers come."""
        work: Work | None = next(self._work)
        history: History = ()
        while work is not None:
            answer = await self._client.send(work, due, self._started, self._record, history)
            if answer is None:
                return
            history += ((work.prompt, answer),)
            due = time.perf_counter() + work.think_s
            work = work.follow_up
            if work is not None:
                await asyncio.sleep(due - time.perf_counter())

    def _record(self, sample: Sample) -> None:
        self.samples.append(sample)
        self._errors += sample.failure is not None
        if not self._stopped.is_set():
            self._notify(len(self.samples), self._errors)

    def _now(self) -> float:
        return time.perf_counter() - self._started
