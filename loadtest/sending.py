"""Sends the share of a level that one process has: a closed loop of clients, or arrivals on a
schedule."""

from __future__ import annotations

import asyncio
import time

from .client import Client, History
from .client_clock import Monitor
from .prompts import Work
from .sample import Sample
from .sender import Record
from .share import Held, Share


class Sending:
    """Sends `share` with `client` until its requests have ended, the server is dead, or `end` is
    set. `record` receives each request that has ended. `started` is when `run` began, in
    `time.perf_counter` seconds."""

    def __init__(self, client: Client, share: Share, *, end: asyncio.Event, record: Record) -> None:
        self._client, self._share, self._end, self._record = client, share, end, record
        self._work = iter(share.work)
        self._samples: list[Sample] = []
        self._first_ended: dict[int, float] = {}
        self._exhausted: float | None = None
        self.started = 0.0

    async def run(self) -> Held:
        """Send, and give what came of it."""
        async with Monitor() as monitor:
            self.started = time.perf_counter()
            await self._run_until_ended()
            return Held(
                self._samples,
                self._now(),
                list(self._first_ended.values()),
                self._exhausted,
                monitor.disturbance,
            )

    async def _run_until_ended(self) -> None:
        load = asyncio.create_task(self._open_loop() if self._share.due else self._closed_loop())
        ends = [asyncio.create_task(event.wait()) for event in (self._client.died, self._end)]
        try:
            await asyncio.wait((load, *ends), return_when=asyncio.FIRST_COMPLETED)
            if load.done():
                load.result()
        finally:
            for task in (load, *ends):
                task.cancel()
            await asyncio.gather(load, *ends, return_exceptions=True)

    async def _closed_loop(self) -> None:
        async def one_client(index: int, start: float) -> None:
            await asyncio.sleep(start)
            for work in self._work:
                await self._send(work, time.perf_counter())
                self._first_ended.setdefault(index, self._now())
            if self._exhausted is None:
                self._exhausted = self._now()

        async with asyncio.TaskGroup() as group:
            for index, start in enumerate(self._share.starts):
                group.create_task(one_client(index, start))

    async def _open_loop(self) -> None:
        async with asyncio.TaskGroup() as requests:
            for work, offset in zip(self._share.work, self._share.due, strict=True):
                due = self.started + offset
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                requests.create_task(self._send(work, due))

    async def _send(self, work: Work | None, due: float) -> None:
        """Send `work`, and what follows it, as long as answers come."""
        history: History = ()
        while work is not None:
            answer = await self._client.send(work, due, self.started, self._add, history)
            if answer is None:
                return
            history += ((work.prompt, answer),)
            due = time.perf_counter() + work.think_s
            work = work.follow_up
            if work is not None:
                await asyncio.sleep(due - time.perf_counter())

    def _add(self, sample: Sample) -> None:
        self._samples.append(sample)
        self._record((sample,))

    def _now(self) -> float:
        return time.perf_counter() - self.started
