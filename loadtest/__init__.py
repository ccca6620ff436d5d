"""Load tests of a Triton server that streams tokens: arrivals, the client, metrics, the report."""

from __future__ import annotations

from collections.abc import Callable

from . import slo
from .config import Level, LoadTest, Progress
from .report import LoadTestReport, Percentiles, Run
from .slo import Slo

__all__ = [
    "Level",
    "LoadTest",
    "LoadTestReport",
    "Percentiles",
    "Progress",
    "Run",
    "Slo",
    "run",
    "slo",
]


def run(
    url: str, config: LoadTest, *, on_progress: Callable[[Progress], None] | None = None
) -> LoadTestReport:
    """Load the model behind `url` (`grpc://host:port` or `host:port`) and measure its streams.

    `on_progress` is called after each counted request. A server that dies during the test does not
    raise: the report up to then comes back with `aborted` set and `ok` false. An interrupt cancels
    every stream, closes the connections and is raised again.

    Raises:
        UsageError: `url` is not such an address.
        BadInputError: No server answers, it is not ready, or it has no model fit for the test.
    """
    # gRPC and NumPy, which the client brings, are slow to import.
    import asyncio

    from .sweep import sweep

    return asyncio.run(sweep(url, config, on_progress or (lambda _: None)))
