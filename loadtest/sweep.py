"""Runs the levels of a test one after another against one target."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from . import metrics, rate_steps
from .client import Client
from .client_clock import StampingSelector
from .config import Level, LoadTest, Progress
from .held_level import HeldLevel
from .prompts import Work
from .raw import RawFile
from .report import LoadTestReport, Run
from .sample import Kind, Sample
from .search import Found, Step, find_max
from .targets.base import Target

OPEN_LOOP_STREAMS: Final = 16
"""Streams to connect for before an open loop, whose number of streams is not known."""

_SLOWEST_START: Final = 0.1
"""Requests per second at which a search starts where nothing is known."""


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
        self._work: Iterator[Work] = test.all_work()
        self._request_s = 0.0
        self._stopped = asyncio.Event()
        self._runs: list[Run] = []
        self._found: Found | None = None

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
        if self._test.find_max:
            self._found = await self._search()
        else:
            await self._run_levels()
        return LoadTestReport(
            model=model,
            url=self._target.url,
            max_tokens=self._test.max_tokens,
            seed=self._test.seed,
            token_counting=metrics.least_trustworthy(run.token_counting for run in self._runs),
            duration_s=time.perf_counter() - started,
            runs=tuple(self._runs),
            slos=self._test.slos,
            max_errors=self._test.max_errors,
            allow_late=self._test.allow_late,
            aborted=self._why_aborted(),
            interrupted=self._stopped.is_set(),
            search=self._found,
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
        self._request_s = statistics.median(ended) if ended else 0.0

    async def _run_levels(self) -> None:
        levels = self._test.levels()
        for level in levels:
            if self._over:
                break
            schedule = self._schedule(level, self._test.seed)
            held = self._held(level, len(levels), schedule)
            await self._hold(level, held)

    async def _search(self) -> Found:
        """Search the highest rate; starts with the given one, or one request at a time."""
        start = next(iter(self._test.rates), 0.0) or (
            1 / self._request_s if self._request_s else _SLOWEST_START
        )
        return await find_max(start, self._step)

    async def _step(self, rate: float, number: int) -> Step | None:
        if self._over:
            return None
        level = rate_steps.level_of(self._test, rate, self._request_s)
        schedule = self._schedule(level, self._test.seed + number) or ()
        hopeless = rate_steps.watch(self._test, level, schedule, self._request_s, self._client)
        held = self._held(level, 0, schedule, hopeless)
        run = await self._hold(level, held)
        if self._over:
            return None
        return Step(
            rate,
            met=not held.stopped_early
            and run.meets(self._test.slos)
            and run.error_percent <= self._test.max_errors,
            stopped_early=held.stopped_early,
            exceeding=tuple(
                rate_steps.exceeding(slo, held.samples)
                for slo in rate_steps.on_requests(self._test.slos)
            ),
        )

    def _schedule(self, level: Level, seed: int) -> Sequence[float] | None:
        if level.rate is None:
            return None
        return self._test.schedule or tuple(
            self._test.arrivals.schedule(level.rate, level.requests, seed)
        )

    def _held(
        self,
        level: Level,
        levels: int,
        schedule: Sequence[float] | None,
        hopeless: Callable[[Sequence[Sample], float], bool] | None = None,
    ) -> HeldLevel:
        index = len(self._runs)

        def notify(done: int, errors: int) -> None:
            self._on_progress(Progress(level, index, levels, done, errors))

        return HeldLevel(
            self._client,
            level,
            self._work,
            stopped=self._stopped,
            ramp_s=self._request_s,
            schedule=schedule,
            hopeless=hopeless,
            notify=notify,
        )

    async def _hold(self, level: Level, held: HeldLevel) -> Run:
        """Hold `level` and keep its figures."""
        await self._target.open(level.concurrency or OPEN_LOOP_STREAMS)
        await held.run()
        if self._raw:
            self._raw.write(
                len(self._runs), level, held.samples, held.steady, self._test.count_tokens
            )
        run = metrics.summarise(
            level,
            self._counted(held),
            held.duration_s,
            test=self._test,
            steady=held.steady,
            complete=not (self._over or held.stopped_early),
            disturbance=held.disturbance,
        )
        self._runs.append(run)
        return run

    def _counted(self, held: HeldLevel) -> list[Sample]:
        """The samples without those that this client, not the server, kept from ending."""
        if not (self._stopped.is_set() or held.stopped_early):
            return held.samples
        return [
            sample
            for sample in held.samples
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
