"""Whether the client itself disturbed what it measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .client_clock import Disturbance
from .statistics import Summary

MOST_SHARE: Final = 0.1
"""The share of a latency that the client may cause before a run is invalid."""

IGNORED_MS: Final = 1.0
"""What the client may cause of any latency, however short: servers of models take longer."""

_RULES: Final = (
    ("lateness", "ttft", ("p50", "p99"), "requests were sent late"),
    ("loop_lag", "ttft", ("p50", "p99"), "the client's event loop was late"),
    ("client_wait", "ttft", ("p50", "p99"), "responses waited in the client"),
    ("client_wait", "itl", ("p50",), "responses waited in the client"),
)
"""What the client caused, the latency that it disturbs, the statistics in which the two are
compared, and how to say it."""


def tolerated_ms(latency_ms: float) -> float:
    """What the client may cause of a latency, in milliseconds, before it disturbs it."""
    return max(MOST_SHARE * latency_ms, IGNORED_MS)


@dataclass(frozen=True, slots=True)
class Client:
    """How the client did during a level.

    Attributes:
        valid: Whether what the client caused stayed below `MOST_SHARE` of each latency, or below
            `IGNORED_MS`.
        reasons: Why not, in words.
        cpu: Cores that the client kept busy; None where it was not measured, as the next two.
        machine: Share of the machine's cores that was busy.
        load: The machine's load average at the end of the level.
        processes: How many sent requests.
        starts_within_ms: By how much their starts can differ.
        scaling: What was done because the processes were too busy; None if they were not.
    """

    valid: bool
    reasons: tuple[str, ...] = ()
    cpu: float | None = None
    machine: float | None = None
    load: float | None = None
    processes: int = 1
    starts_within_ms: float = 0.0
    scaling: str | None = None


def judge(latencies: Mapping[str, Summary], disturbance: Disturbance | None) -> Client:
    """Compare what the client caused with the latencies of one level, in milliseconds."""
    reasons = tuple(
        f"{said}: {cause} {statistic} is {caused:.1f} ms, more than {MOST_SHARE:.0%} of "
        f"{latency} {statistic}, {whole:.1f} ms"
        for cause, latency, statistics, said in _RULES
        for statistic in statistics
        if cause in latencies
        and (caused := latencies[cause].at(statistic)) is not None
        and (whole := latencies[latency].at(statistic)) is not None
        and caused > tolerated_ms(whole)
    )
    if disturbance is None:
        return Client(not reasons, reasons)
    return Client(
        not reasons,
        reasons,
        disturbance.cpu,
        disturbance.machine,
        disturbance.load,
        disturbance.processes,
        1000.0 * disturbance.starts_within_s,
    )
