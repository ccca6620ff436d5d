"""Percentiles with confidence intervals, of values of which some may be infinite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from statistics import NormalDist
from typing import Any, Final

PERCENTILES: Final[Mapping[str, float]] = {
    "p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999,
}  # fmt: skip
"""The percentiles of every metric, by the name that objectives and documents use."""

STATISTICS: Final = (*PERCENTILES, "mean", "min", "max")

CONFIDENCE: Final = 0.95
"""Of every interval in a report."""

_LEAST_ABOVE: Final = 5

_EXACT: Final = 2000
"""Up to so many values, intervals follow the binomial distribution itself."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """What `samples` values amount to, in the unit of the values.

    Attributes:
        values: Each of `STATISTICS`; None where there are no values, infinite where failures
            decide.
        intervals: The 95 % confidence interval of each percentile; None where so few values cannot
            give one, or where the values depend on each other.
    """

    samples: int
    values: Mapping[str, float | None]
    intervals: Mapping[str, Interval | None]

    def at(self, statistic: str) -> float | None:
        """The value of `statistic`, one of `STATISTICS`."""
        return self.values[statistic]

    def carries(self, percentile: str) -> bool:
        """Whether there are enough values for `percentile`; see `carried`."""
        return carried(percentile, self.samples, self.intervals)

    def to_json(self) -> dict[str, Any]:
        """`values`, `samples` and `intervals` as one object."""
        intervals = {name: list(ends) if ends else None for name, ends in self.intervals.items()}
        return {**self.values, "samples": self.samples, "intervals": intervals}


def carried(percentile: str, samples: int, intervals: Mapping[str, object]) -> bool:
    """Whether `samples` values are enough for `percentile`: it has one of the `intervals`; or,
    where the values depend on each other and none has, at least five lie above it."""
    if any(intervals.values()):
        return bool(intervals.get(percentile))
    return samples * (1 - PERCENTILES[percentile]) >= _LEAST_ABOVE


def summary(values: Iterable[float], *, infinite: int = 0, independent: bool = True) -> Summary:
    """Summarize finite `values` and so many `infinite` ones beside them.

    Percentiles interpolate linearly between order statistics, as `numpy.percentile` does by default
    (Hyndman and Fan's definition 7). Values that are not `independent` get no intervals.
    """
    ordered = sorted(values)
    ordered.extend(repeat(math.inf, infinite))
    count = len(ordered)
    if not count:
        return Summary(0, dict.fromkeys(STATISTICS), dict.fromkeys(PERCENTILES))
    found: dict[str, float | None] = {
        name: quantile(ordered, share) for name, share in PERCENTILES.items()
    }
    found |= {"mean": math.fsum(ordered) / count, "min": ordered[0], "max": ordered[-1]}
    intervals = {
        name: interval(ordered, share, CONFIDENCE) if independent else None
        for name, share in PERCENTILES.items()
    }
    return Summary(count, found, intervals)


def curve(values: Iterable[float]) -> tuple[float, ...]:
    """The distribution of `values` in bounded size: what 0, 1, 2 ... 100 % of them do not exceed;
    nothing where there are no values."""
    ordered = sorted(values)
    return tuple(quantile(ordered, percent / 100) for percent in range(101)) if ordered else ()


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value that a `share` of the `ordered` ones does not exceed, interpolated as in
    `summary`."""
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above, weight = min(below + 1, len(ordered) - 1), position - below
    if not weight:
        return ordered[below]
    return ordered[below] * (1 - weight) + ordered[above] * weight


def interval(ordered: Sequence[float], share: float, confidence: float) -> Interval | None:
    """The order statistics between which the percentile lies with `confidence`, whatever the
    distribution: the number of values below it is binomial. None where there are too few."""
    count, tail = len(ordered), (1 - confidence) / 2
    low, high = _ranks(count, share, tail)
    return (ordered[low - 1], ordered[high - 1]) if low >= 1 and high <= count else None


def _ranks(count: int, share: float, tail: float) -> tuple[int, int]:
    if count > _EXACT and count * min(share, 1 - share) > 50:
        middle, spread = count * share, math.sqrt(count * share * (1 - share))
        reach = NormalDist().inv_cdf(1 - tail) * spread
        return math.floor(middle - reach), math.ceil(middle + reach) + 1
    below, low, high = 0.0, 0, count + 1
    for successes in range(count + 1):
        below += binomial(successes, count, share)
        if below <= tail:
            low = successes + 1
        if below >= 1 - tail:
            high = successes + 1
            break
    return low, high


def binomial(successes: int, count: int, share: float) -> float:
    """The probability of so many successes of `count`, each with the probability `share`."""
    log = (
        math.lgamma(count + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(count - successes + 1)
        + successes * math.log(share)
        + (count - successes) * math.log1p(-share)
    )
    return math.exp(log)


def confidence_of_at_most(exceeding: int, count: int, share: float) -> float:
    """How sure `exceeding` of `count` make it that at most the `share` of all exceed a limit.

    One minus the probability of so few by chance if exactly the `share` did (Clopper and Pearson).
    """
    return max(0.0, 1 - math.fsum(binomial(k, count, share) for k in range(exceeding + 1)))
