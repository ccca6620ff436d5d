"""Runs a test in an event loop of its own, and ends it well on Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from .client_clock import StampingSelector, new_event_loop
from .config import LoadTest, Progress
from .observers.sampler import Sampler
from .observers.sources import sources_of
from .raw import RawFile
from .report import LoadTestReport
from .scaling import Argv, Senders
from .sender import Destination
from .sweep import Sweep

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedTestError(KeyboardInterrupt):
    """A load test was interrupted; its cause is the interrupt, `report` what was measured."""

    def __init__(self, report: LoadTestReport) -> None:
        super().__init__()
        self.report = report


def run(
    url: str,
    test: LoadTest,
    on_progress: Callable[[Progress], None],
    out: Path | None,
    workers: Sequence[Argv] | None,
) -> LoadTestReport:
    """See `loadtest.run`."""
    with RawFile(out) if out else nullcontext() as raw:
        interrupt = _Interrupt()
        selector = StampingSelector()
        destination = Destination.of(url, test)
        senders = Senders(destination, selector, workers=workers, processes=test.processes)
        sources = sources_of(url, test.metrics_urls, test.metrics_port, yours=test.yours)
        with (
            Sampler(sources) as sampler,
            asyncio.Runner(loop_factory=new_event_loop(selector)) as runner,
        ):
            report = runner.run(_sweep(senders, test, on_progress, raw, interrupt, sampler))
    if interrupt.number is None:
        return report
    try:
        signal.raise_signal(interrupt.number)  # whoever handles it says what it means
    except KeyboardInterrupt as cause:
        raise InterruptedTestError(report) from cause
    return report


async def _sweep(
    senders: Senders,
    test: LoadTest,
    on_progress: Callable[[Progress], None],
    raw: RawFile | None,
    interrupt: _Interrupt,
    sampler: Sampler,
) -> LoadTestReport:
    try:
        sender = await senders.first()
        sweep = Sweep(
            sender, test, senders=senders, on_progress=on_progress, raw=raw, sampler=sampler
        )
        with interrupt.calling(sweep.stop):
            return await sweep.run()
    finally:
        await senders.close()


class _Interrupt:
    """Holds back SIGINT and SIGTERM, once; `number` says which came."""

    def __init__(self) -> None:
        self.number: int | None = None

    @contextmanager
    def calling(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call `stop` in the running event loop when such a signal comes during the block. The next
        one finds the handlers that were there before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        held = [number for number, handler in before.items() if callable(handler)]

        def restore() -> None:
            for number in held:
                signal.signal(number, before[number])

        def handle(number: int, frame: FrameType | None) -> None:
            self.number = number
            restore()
            loop.call_soon_threadsafe(stop)

        for number in held:
            signal.signal(number, handle)
        try:
            yield
        finally:
            restore()
