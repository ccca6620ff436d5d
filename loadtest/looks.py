"""Looks at a level while it is held, to end it when it has enough requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

from .config import Level
from .metrics import METRICS, Measured
from .sample import Kind, Sample
from .share import Held, InFlight
from .until import Until, width


class Looks:
    """Decides when `level` has enough requests.

    Requests count in the order in which they were due, up to the first that has not ended: those
    that happen to have ended so far would be the quick ones. Of a closed loop, what was due before
    each client had its first answer is left out.
    """

    def __init__(self, until: Until, level: Level) -> None:
        self._until, self._clients = until, level.concurrency or 0
        self._next = until.first_look
        self._looks, self._reached = 0, False

    def enough(self, samples: Sequence[Sample], in_flight: Sequence[InFlight], now: float) -> bool:
        """Whether the level may end `now`, in seconds after its start."""
        if now > self._until.limit_s:
            return True
        if len(samples) < self._next:  # cheap; asked many times a second
            return False
        cut = now - max((each.waited_s for each in in_flight), default=0.0)
        values = self._values(samples, cut)
        if len(values) < self._next:
            return False
        self._looks += 1
        self._next *= 2
        self._reached = width(self._until, values, self._looks).reached
        return self._reached

    @property
    def last(self) -> int:
        """The number of the look that the report rests on: that which ended the level, or one more
        at its limit."""
        return self._looks if self._reached else self._looks + 1

    def _values(self, samples: Sequence[Sample], cut: float) -> list[float]:
        ordered = sorted(samples, key=attrgetter("due"))
        started = max((each.due + each.ended for each in ordered[: self._clients]), default=-1.0)
        metric = METRICS[self._until.metric]
        return [
            1000 * value
            for sample in ordered
            if started < sample.due < cut and sample.failure is None
            for value in metric.values(Measured(sample, None))
        ]


def without_unfinished(held: Held) -> tuple[Held, float]:
    """`held` up to the first request that its end cut off, as if the level had ended when that one
    was due; and when that was (infinite where none was cut off)."""
    cut = min(
        (
            sample.due
            for sample in held.samples
            if sample.failure is not None and sample.failure.kind is Kind.UNFINISHED
        ),
        default=math.inf,
    )
    if cut == math.inf:
        return held, cut
    samples = [sample for sample in held.samples if sample.due < cut]
    return replace(held, samples=samples, duration_s=cut, exhausted=cut), cut
