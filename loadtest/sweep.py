"""Runs the levels of a test one after another."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from ..core.errors import NemoDeployError
from . import metrics, rate_steps
from .config import Level, LoadTest, Progress
from .held_level import HeldLevel, share_of, steady_window
from .looks import Looks, without_unfinished
from .metrics import Window
from .observers.sampler import Sampler
from .prompts import Work
from .raw import RawFile
from .report import LoadTestReport, Run
from .sample import Kind, Sample
from .scaling import Senders
from .search import Found, Step, find_max
from .sender import Sender
from .share import Held

_SLOWEST_START: Final = 0.1
"""Requests per second at which a search starts where nothing is known."""


class Sweep:
    """A test by `sender`, the first of `senders`, which give more processes where a level is too
    much for those that there are.

    `stop` ends it early: what was measured so far is reported.
    """

    def __init__(
        self,
        sender: Sender,
        test: LoadTest,
        *,
        senders: Senders,
        on_progress: Callable[[Progress], None],
        sampler: Sampler,
        raw: RawFile | None = None,
    ) -> None:
        self._sender, self._senders, self._sampler = sender, senders, sampler
        self._test, self._on_progress, self._raw = test, on_progress, raw
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

        Raises `BadInputError` where no server answers or it has no model fit for the test,
        `CheckFailedError` where another process cannot be used.
        """
        model = await self._sender.check()
        started, started_at = time.perf_counter(), datetime.now(UTC)
        await self._warm_up(self._test.warmup)
        if self._test.find_max:
            self._found = await self._search()
        else:
            await self._run_levels()
        return LoadTestReport(
            model=model,
            url=self._sender.url,
            max_tokens=self._test.max_tokens,
            seed=self._test.seed,
            started_at=f"{started_at:%Y-%m-%dT%H:%M:%SZ}",
            settings=self._test.settings,
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
        return self._sender.died.is_set() or self._stopped.is_set()

    async def _warm_up(self, requests: int) -> None:
        """Send the requests that are not counted; how long they take sets the pace at which the
        clients of a level start."""
        if not requests:
            return
        level = Level(requests, concurrency=min(requests, max(self._test.concurrencies)))
        share = share_of(level, self._work, ramp_s=0.0, schedule=None)
        held = await HeldLevel(self._sender, level, share, stopped=self._stopped).run()
        ended = [sample.ended for sample in held.samples if sample.failure is None]
        self._request_s = statistics.median(ended) if ended else 0.0

    async def _run_levels(self) -> None:
        levels = self._test.levels()
        for level in levels:
            if self._over:
                break
            await self._hold(level, len(levels), self._schedule(level, self._test.seed))

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
        hopeless = rate_steps.watch(self._test, level, schedule, self._request_s)
        run, samples, stopped_early = await self._hold(level, 0, schedule, hopeless)
        if self._over:
            return None
        return Step(
            rate,
            met=not stopped_early
            and run.meets(self._test.slos)
            and run.error_percent <= self._test.max_errors,
            stopped_early=stopped_early,
            exceeding=tuple(
                rate_steps.exceeding(slo, samples)
                for slo in rate_steps.on_requests(self._test.slos)
            ),
        )

    def _schedule(self, level: Level, seed: int) -> Sequence[float] | None:
        if level.rate is None:
            return None
        return self._test.schedule or tuple(
            self._test.arrivals.schedule(level.rate, level.requests, seed)
        )

    async def _hold(
        self,
        level: Level,
        levels: int,
        schedule: Sequence[float] | None,
        hopeless: rate_steps.Hopeless | None = None,
    ) -> tuple[Run, list[Sample], bool]:
        """Hold `level`, one of so many, and keep its figures: with more processes once more, where
        it was too much for those that sent it. Also gives all samples, and whether it was found
        `hopeless`."""
        index = len(self._runs)
        scaling: str | None = None
        while True:
            looks = Looks(self._test.until, level) if self._test.until else None
            share = share_of(level, self._work, ramp_s=self._request_s, schedule=schedule)
            watched = HeldLevel(
                self._sender,
                level,
                share,
                stopped=self._stopped,
                hopeless=looks.enough if looks else hopeless,
                notify=lambda samples, errors: self._on_progress(
                    Progress(level, index, levels, len(samples), errors, samples, self._in_flight)
                ),
            )
            began = time.perf_counter()
            held = await watched.run()
            observed = self._sampler.between(began, time.perf_counter())
            again, said = await self._scaled(held)
            scaling = said or scaling
            if not again:
                break
        run = self._figures(level, held, looks, stopped_early=watched.stopped_early)
        client = replace(run.client, scaling=scaling)
        run = replace(run, client=client, observed=observed)
        self._runs.append(run)
        return run, held.samples, watched.stopped_early

    def _in_flight(self) -> int:
        return len(self._sender.in_flight())

    async def _scaled(self, held: Held) -> tuple[bool, str | None]:
        """Whether the level is to be held again because there are more processes now, and what to
        say about it."""
        needed = None if self._over else self._senders.needed(held)
        if needed is None:
            return False, None
        seen = held.disturbance
        cause = f"with {seen.processes} sending, {seen.cpu:.2f} cores were busy"
        if self._test.schedule:
            return False, f"{cause}; a trace is not sent again: use --processes {needed}"
        try:
            self._sender = await self._senders.grow(needed)
        except NemoDeployError as error:
            return False, f"{cause}; {needed} processes could not be used: {error}"
        await self._warm_up(needed)
        return True, f"held again by {needed} processes: {cause}"

    def _figures(
        self, level: Level, held: Held, looks: Looks | None, *, stopped_early: bool
    ) -> Run:
        """The figures of what was held. A level that `looks` ended is complete."""
        whole, cut = held.samples, math.inf
        if looks and stopped_early and not self._over:
            held, cut = without_unfinished(held)
            stopped_early = False
        steady = steady_window(level, held)
        if self._raw:
            measured = steady or (Window(-math.inf, cut) if cut < math.inf else None)
            tokenizer = self._test.count_tokens
            self._raw.write(len(self._runs), level, whole, measured, tokenizer)
        incomplete = self._stopped.is_set() or stopped_early
        return metrics.summarise(
            level,
            _without_unfinished(held.samples) if incomplete else held.samples,
            held.duration_s,
            test=self._test,
            steady=steady,
            complete=not (self._over or stopped_early),
            disturbance=held.disturbance,
            look=looks.last if looks else 1,
        )

    def _why_aborted(self) -> str | None:
        if self._stopped.is_set():
            return "the test was interrupted"
        return self._sender.death if self._sender.died.is_set() else None


def _without_unfinished(samples: Sequence[Sample]) -> list[Sample]:
    """The samples without those that this client, not the server, kept from ending."""
    return [
        sample
        for sample in samples
        if sample.failure is None or sample.failure.kind is not Kind.UNFINISHED
    ]
