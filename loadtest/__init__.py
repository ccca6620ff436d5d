"""Load tests of a server that streams tokens: targets, load, samples, statistics, the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from . import slo
from .config import Level, LoadTest, Progress
from .report import LoadTestReport, Run
from .slo import Slo
from .statistics import Summary

__all__ = [
    "Level",
    "LoadTest",
    "LoadTestReport",
    "Progress",
    "Run",
    "Slo",
    "Summary",
    "run",
    "slo",
]


def run(
    url: str,
    config: LoadTest,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    out: Path | None = None,
    workers: Sequence[Sequence[str]] | None = None,
) -> LoadTestReport:
    """Load the model behind `url` and measure its streams: `grpc://host:port` or `host:port` for
    Triton, `http://host:port` for Triton or an OpenAI endpoint.

    `on_progress` is called after each counted request. Every sample is written to `out`. `workers`
    are the commands of processes that send the requests, here or elsewhere, each ending in
    `python -m nemotron_deploy.loadtest.workers`; None chooses as `config` says. A server
    that dies during the test does not raise: the report up to then comes back with `aborted` set
    and `ok` false. An interrupt cancels every stream, closes the connections and is raised again as
    `running.InterruptedTestError`, a `KeyboardInterrupt` with the report so far.

    Raises:
        UsageError: `url` is not such an address.
        RefusedError: The server is not in a private network, and `config` does not say that it is
            the user's own; or its address is link-local.
        BadInputError: No server answers, it is not ready, or it has no model fit for the test; or
            `out` cannot be written.
        CheckFailedError: A worker cannot be used. One that fails later ends the test as a server
            that dies.
    """
    # gRPC and NumPy, which the client brings, are slow to import.
    from .running import run as work

    return work(url, config, on_progress or (lambda _: None), out, workers)
