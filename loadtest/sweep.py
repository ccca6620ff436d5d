"""Runs the levels of a test one after another against one target."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Final

from . import arrivals, metrics
from .client import Client
from .client_clock import StampingSelector
from .config import Level, LoadTest, Progress
from .held_level import HeldLevel
from .prompts import Work, repeated
from .raw import RawFile
from .report import LoadTestReport, Run
from .sample import Kind, Sample
from .targets.base import Target

OPEN_LOOP_STREAMS: Final = 16
"""Streams to connect for before an open loop, whose number of streams is not known."""


class Sweep:
    """A test of one target, for one event loop that polls with `selector`.

    `stop` ends it early: what was measured so far is reported.
    """

    def __init__(
        self,
        target: Target,
        test: LoadTest,
        selector: StampingSelector,
        *,
        on_progress: Callable[[Progress], None],
        raw: RawFile | None = None,
    ) -> None:
        self._target, self._test, self._on_progress, self._raw = target, test, on_progress, raw
        self._client = Client(target, test, selector)
        self._work: Iterator[Work] = repeated(test.prompts, test.max_tokens)
        self._ramp_s = 0.0
        self._stopped = asyncio.Event()
        self.runs: list[Run] = []

    def stop(self) -> None:
        """End the test; the streams that are open are cancelled."""
        self._stopped.set()

    async def run(self) -> LoadTestReport:
        """Run every level, or as many as the server survives and `stop` allows.

        Raises `BadInputError` where no server answers or it has no model fit for the test.
        """
        model = await self._target.check(self._test.model)
        started = time.perf_counter()
        await self._warm_up()
        levels = self._test.levels()
        for index, level in enumerate(levels):
            if self._over:
                break
            await self._run_level(index, level, len(levels))
        return LoadTestReport(
            model=model,
            url=self._target.url,
            max_tokens=self._test.max_tokens,
            token_counting=metrics.least_trustworthy(run.token_counting for run in self.runs),
            duration_s=time.perf_counter() - started,
            runs=tuple(self.runs),
            slos=self._test.slos,
            max_errors=self._test.max_errors,
            allow_late=self._test.allow_late,
            aborted=self._why_aborted(),
            interrupted=self._stopped.is_set(),
        )

    @property
    def _over(self) -> bool:
        return self._client.died.is_set() or self._stopped.is_set()

    async def _warm_up(self) -> None:
        """Send the requests that are not counted; how long they take sets the pace at which the
        clients of a level start."""
        requests = self._test.warmup
        if not requests:
            return
        level = Level(requests, concurrency=min(requests, max(self._test.concurrencies)))
        await self._target.open(level.concurrency or 1)
        held = HeldLevel(self._client, level, self._work, stopped=self._stopped)
        await held.run()
        ended = [sample.ended for sample in held.samples if sample.failure is None]
        self._ramp_s = statistics.median(ended) if ended else 0.0

    async def _run_level(self, index: int, level: Level, levels: int) -> None:
        await self._target.open(level.concurrency or OPEN_LOOP_STREAMS)

        def notify(done: int, errors: int) -> None:
            self._on_progress(Progress(level, index, levels, done, errors))

        schedule = None
        if level.rate is not None:
            schedule = arrivals.poisson(level.rate, level.requests, self._test.seed)
        held = HeldLevel(
            self._client,
            level,
            self._work,
            stopped=self._stopped,
            ramp_s=self._ramp_s,
            schedule=schedule,
            notify=notify,
        )
        await held.run()
        if self._raw:
            self._raw.write(index, level, held.samples, held.steady, self._test.count_tokens)
        self.runs.append(
            metrics.summarise(
                level,
                self._counted(held.samples),
                held.duration_s,
                test=self._test,
                steady=held.steady,
                complete=not self._over,
                disturbance=held.disturbance,
            )
        )

    def _counted(self, samples: list[Sample]) -> list[Sample]:
        """Without the requests that the user, not the server, kept from ending."""
        if not self._stopped.is_set():
            return samples
        return [
            sample
            for sample in samples
            if sample.failure is None or sample.failure.kind is not Kind.UNFINISHED
        ]

    def _why_aborted(self) -> str | None:
        if self._stopped.is_set():
            return "the test was interrupted"
        if not self._client.died.is_set():
            return None
        return (
            f"the server at {self._target.url} stopped answering during the test "
            f"({self._client.death}); read its log, and start the test again once it is ready"
        )
