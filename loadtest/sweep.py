"""Runs the levels of a test one after another: closed loops of clients, or scheduled arrivals."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable

from . import arrivals, endpoint, metrics
from .client import Client
from .config import Level, LoadTest, Progress
from .report import LoadTestReport, Run
from .sample import Sample
from .server import CONNECTIONS, Server


async def sweep(
    url: str, test: LoadTest, on_progress: Callable[[Progress], None]
) -> LoadTestReport:
    """Run every level of `test`, or as many as the server survives. Errors as in `run`."""
    async with Server(endpoint.parse(url)) as server:
        model = await server.check(test.model)
        started = time.perf_counter()
        client = Client(server, model, test)
        runs = await _run_levels(server, client, test, on_progress)
        return LoadTestReport(
            model=model,
            url=f"grpc://{server.target}",
            max_tokens=test.max_tokens,
            token_counting="tokenizer" if test.count_tokens else "responses",
            duration_s=time.perf_counter() - started,
            runs=tuple(runs),
            slos=test.slos,
            aborted=_why_aborted(server, client),
        )


def _why_aborted(server: Server, client: Client) -> str | None:
    if not client.died.is_set():
        return None
    return (
        f"the server at grpc://{server.target} stopped answering during the test "
        f"({client.death}); read its log, and start the test again once it is ready"
    )


async def _run_levels(
    server: Server, client: Client, test: LoadTest, on_progress: Callable[[Progress], None]
) -> list[Run]:
    levels, runs = test.levels(), []
    if test.warmup:
        warmup = Level(test.warmup, concurrency=min(test.warmup, max(test.concurrencies)))
        await server.open(warmup.concurrency or 1)
        await _HeldLevel(client, test, warmup, lambda *_: None).run()
    for index, level in enumerate(levels):
        if client.died.is_set():
            break
        await server.open(level.concurrency or CONNECTIONS)

        def notify(done: int, errors: int, level: Level = level, index: int = index) -> None:
            on_progress(Progress(level, index, len(levels), done, errors))

        held = _HeldLevel(client, test, level, notify)
        duration = await held.run()
        runs.append(
            metrics.summarise(
                level,
                held.samples,
                duration,
                complete=not client.died.is_set(),
                slos=test.slos,
                count_tokens=test.count_tokens,
            )
        )
    return runs


class _HeldLevel:
    """Holds one level until its requests have ended or the server is found dead."""

    def __init__(
        self,
        client: Client,
        test: LoadTest,
        level: Level,
        notify: Callable[[int, int], None],
    ) -> None:
        self._client, self._test, self._level, self._notify = client, test, level, notify
        self._sent = self._errors = 0
        self.samples: list[Sample] = []

    async def run(self) -> float:
        """Fill `samples`, one for each request that was sent; returns the seconds it took."""
        started = time.perf_counter()
        load = self._open_loop(started) if self._level.rate else self._closed_loop()
        work = asyncio.create_task(load)
        death = asyncio.create_task(self._client.died.wait())
        try:
            await asyncio.wait((work, death), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            death.cancel()
            await asyncio.gather(work, death, return_exceptions=True)
        duration = time.perf_counter() - started
        while len(self.samples) < self._sent:
            error = "outstanding when the server died"
            self.samples.append(Sample(array("d"), ended=duration, error=error))
        return duration

    async def _closed_loop(self) -> None:
        numbers = iter(range(self._level.requests))

        async def one_client() -> None:
            for number in numbers:
                await self._send(number, time.perf_counter())

        async with asyncio.TaskGroup() as clients:
            for _ in range(self._level.concurrency or 1):
                clients.create_task(one_client())

    async def _open_loop(self, started: float) -> None:
        assert self._level.rate is not None
        offsets = arrivals.poisson(self._level.rate, self._level.requests, self._test.seed)
        async with asyncio.TaskGroup() as requests:
            for number, offset in enumerate(offsets):
                due = started + offset
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                requests.create_task(self._send(number, due))

    async def _send(self, number: int, due: float) -> None:
        prompts = self._test.prompts
        self._sent += 1
        sample = await self._client.send(prompts[number % len(prompts)], due)
        self.samples.append(sample)
        self._errors += sample.error is not None
        self._notify(len(self.samples), self._errors)
