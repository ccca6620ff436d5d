"""The steps of a search for the highest rate: one open-loop level each, ended when it is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from .config import Level, LoadTest
from .metrics import METRICS, Measured
from .sample import Sample
from .search import Exceeding
from .share import InFlight
from .slo import Slo

_STEP_S: Final = 20.0
_LEAST_REQUESTS, _MOST_REQUESTS = 50, 400
LEAST_STEP_S: Final = 2.0
"""Seconds that a step lasts at least."""
_LEAST_STEP_REQUESTS_LONG: Final = 5
"""A step lasts at least so many times as long as one request takes: fewer requests than that are a
burst, which a server far below its capacity can absorb."""
_LEAST_DRAIN_S: Final = 10.0
_DRAIN_TIMES: Final = 5
"""After the last arrival, a step waits so many times as long as one request takes."""

Hopeless = Callable[[Sequence[Sample], Sequence[InFlight], float], bool]
"""Whether a level need not go on, from the requests that have ended, those that have not, and the
seconds since its start."""

_FROM_DUE: Final = {"ttft": True, "content": True, "e2e": False, "stream": False}
"""Metrics that count from the intended send, so that an outstanding request can exceed their limit;
and whether text ends the wait."""


def level_of(test: LoadTest, rate: float, request_s: float) -> Level:
    """The step for `rate`: as many requests as are wanted, or twenty seconds of arrivals, but at
    least 50 and at most 400. In any case, it lasts two seconds and five times `request_s`, the time
    of one request, at least."""
    chosen = min(_MOST_REQUESTS, max(_LEAST_REQUESTS, math.ceil(rate * _STEP_S)))
    least = math.ceil(rate * max(LEAST_STEP_S, _LEAST_STEP_REQUESTS_LONG * request_s))
    return Level(max(test.requests or chosen, least), rate=rate)


def on_requests(slos: Sequence[Slo]) -> list[Slo]:
    """The objectives on a percentile of requests, each of which has one value."""
    return [
        slo
        for slo in slos
        if slo.is_latency and slo.statistic != "mean" and not METRICS[slo.metric].pooled
    ]


def exceeding(slo: Slo, samples: Sequence[Sample]) -> Exceeding:
    """How many of `samples` exceed the limit of `slo`; failed ones do."""
    over = sum(_exceeds(slo, sample) for sample in samples)
    return Exceeding(over, len(samples), slo.tolerated)


def _exceeds(slo: Slo, sample: Sample) -> bool:
    if sample.failure is not None:
        return True
    values = METRICS[slo.metric].values(Measured(sample, None))
    return any(1000.0 * value >= slo.limit for value in values)


def watch(test: LoadTest, level: Level, schedule: Sequence[float], request_s: float) -> Hopeless:
    """Whether a step is lost: more requests exceed a limit than the objective tolerates, counting
    those that are outstanding for longer; or the backlog is still there long after the last
    arrival, as above the capacity, where there is no steady state."""
    objectives = on_requests(test.slos)
    end = (schedule[-1] if schedule else 0.0) + max(_LEAST_DRAIN_S, _DRAIN_TIMES * request_s)

    def lost(slo: Slo, samples: Sequence[Sample], in_flight: Sequence[InFlight]) -> bool:
        over = exceeding(slo, samples).exceeding
        if slo.metric in _FROM_DUE:
            silent_only = _FROM_DUE[slo.metric]
            over += sum(
                1000.0 * each.waited_s > slo.limit and (each.silent or not silent_only)
                for each in in_flight
            )
        return over > level.requests * slo.tolerated + 1

    return lambda samples, in_flight, now: (
        now > end or any(lost(slo, samples, in_flight) for slo in objectives)
    )
