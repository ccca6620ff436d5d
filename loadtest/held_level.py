"""Holds one level with whatever sends its requests, and watches it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from .config import Level
from .metrics import Window
from .prompts import Work
from .rate_steps import Hopeless
from .sample import Sample
from .sender import Sender
from .share import Held, Share

_WATCH_EVERY_S: Final = 0.05
_OPEN_LOOP_STREAMS: Final = 16
"""Streams to connect for before an open loop, whose number of streams is not known."""


def share_of(
    level: Level, work: Iterator[Work], *, ramp_s: float, schedule: Sequence[float] | None
) -> Share:
    """All requests of `level`, taken from `work`. The clients of a closed loop begin one after the
    other within `ramp_s` seconds; the requests of an open loop are due at `schedule`."""
    taken = tuple(islice(work, level.requests))
    if schedule is not None:
        return Share(taken, due=tuple(schedule))
    clients = level.concurrency or 1
    return Share(taken, starts=tuple(index * ramp_s / clients for index in range(clients)))


def steady_window(level: Level, held: Held) -> Window | None:
    """When all clients of the closed loop were busy: from when each has ended its first request
    until one found no further work. None for an open loop, and where less than one request for each
    client was sent in that time."""
    clients = level.concurrency
    if clients is None:
        return None
    if clients == 1:
        return Window(0.0, held.duration_s)
    if len(held.first_ended) < clients:
        return None
    end = held.exhausted if held.exhausted is not None else held.duration_s
    window = Window(max(held.first_ended), end)
    sent = sum(window.holds(sample.due) for sample in held.samples)
    return window if sent >= clients else None


class HeldLevel:
    """Holds `level`, whose requests are `share`, until they have ended, the server is dead, or
    `stopped` is set. `hopeless` may end the level early, too; it is asked many times a second.
    `notify` receives the requests that have ended, a list that grows, and how many of them failed.
    """

    def __init__(
        self,
        sender: Sender,
        level: Level,
        share: Share,
        *,
        stopped: asyncio.Event,
        hopeless: Hopeless | None = None,
        notify: Callable[[Sequence[Sample], int], None] = lambda samples, errors: None,
    ) -> None:
        self._sender, self._level, self._share = sender, level, share
        self._stopped, self._hopeless, self._notify = stopped, hopeless, notify
        self._errors = 0
        self._recorded: list[Sample] = []
        self.stopped_early = False

    async def run(self) -> Held:
        """Hold the level, and give what came of it."""
        streams = self._level.concurrency or _OPEN_LOOP_STREAMS
        end = asyncio.Event()
        watch = asyncio.create_task(self._watch(end))
        try:
            return await self._sender.hold(self._share, streams, end, self._record)
        finally:
            watch.cancel()

    async def _watch(self, end: asyncio.Event) -> None:
        """Set `end` when the level is to end before its requests have."""
        ends: list[asyncio.Task[Any]] = [
            asyncio.create_task(event.wait()) for event in (self._sender.died, self._stopped)
        ]
        if self._hopeless:
            ends.append(asyncio.create_task(self._until(self._hopeless)))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            end.set()
        finally:
            for task in ends:
                task.cancel()

    async def _until(self, hopeless: Hopeless) -> None:
        started = time.perf_counter()
        while not hopeless(self._recorded, self._sender.in_flight(), time.perf_counter() - started):
            await asyncio.sleep(_WATCH_EVERY_S)
        self.stopped_early = True

    def _record(self, samples: Sequence[Sample]) -> None:
        self._recorded += samples
        self._errors += sum(sample.failure is not None for sample in samples)
        if not self._stopped.is_set():
            self._notify(self._recorded, self._errors)
