"""When a level has enough requests: the confidence interval of a statistic is narrow enough.

A level that ends as soon as an interval looks narrow would end when it is narrow by chance: of
intervals that are looked at again and again, fewer than 95 % hold. So they are looked at only a few
times, each time with twice as many requests, and the k-th look may fail with probability 5 % / 2^k
only. All looks together then fail with at most 5 %, whichever of them ends the level (Bonferroni).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..core.errors import UsageError
from .statistics import CONFIDENCE, PERCENTILES, interval, quantile

METRICS: Final = ("ttft", "content", "tpot", "e2e", "stream")
"""Metrics of which each request has one value: gaps between tokens depend on each other, so that
they have no such interval."""

MOST_REQUESTS: Final = 4000
"""Requests of a level where `--requests` does not say how many."""
_MOST_S: Final = 600.0
_LEAST: Final = 50
"""Requests before the first look."""

_SYNTAX: Final = re.compile(
    rf"({'|'.join(METRICS)})_({'|'.join(map(re.escape, PERCENTILES))})<(\d+(?:\.\d+)?)%"
    r"(?:,(\d+(?:\.\d+)?)s)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Until:
    """A level ends when the interval of a `statistic` of `metric` is narrower than `percent` of its
    value, or after `limit_s` seconds."""

    metric: str
    statistic: str
    percent: float
    limit_s: float = _MOST_S

    def __str__(self) -> str:
        return f"{self.metric}_{self.statistic}<{self.percent:g}%,{self.limit_s:g}s"

    @property
    def first_look(self) -> int:
        """Requests at the first look: at least 50, and enough for the statistic to have an
        interval."""
        count, share = _LEAST, PERCENTILES[self.statistic]
        while interval(range(count), share, confidence_of(1)) is None:
            count += 1
        return count


@dataclass(frozen=True, slots=True)
class Width:
    """How narrow an interval became.

    Attributes:
        rule: What was asked for.
        reached: Whether it is narrower than that.
        percent: Its width in percent of the value; None where so few requests have no interval.
        interval: Its ends in milliseconds.
        confidence: Of this interval. It is higher than that of other intervals in the report, since
            it was looked at several times.
        looks: How often it was looked at.
        requests: On how many requests it rests.
    """

    rule: str
    reached: bool
    percent: float | None
    interval: tuple[float, float] | None
    confidence: float
    looks: int
    requests: int


def parse(text: str) -> Until:
    """Read `ttft_p99<10%`, or with a time limit `ttft_p99<10%,300s`. Raises `UsageError`."""
    match = _SYNTAX.fullmatch(text.replace(" ", ""))
    percent = float(match[3]) if match else 0.0
    limit = float(match[4]) if match and match[4] else _MOST_S
    if match is None or not percent or not limit:
        raise UsageError(
            f"--until {text!r}: must be a statistic and the width of its confidence interval, for "
            "example 'ttft_p99<10%', with a time limit 'ttft_p99<10%,300s'; statistics are "
            f"METRIC_PERCENTILE with {', '.join(METRICS)} and {', '.join(PERCENTILES)}"
        )
    return Until(match[1], match[2], percent, limit)


def confidence_of(look: int) -> float:
    """Of the interval at a look, counted from 1."""
    return 1 - math.ldexp(1 - CONFIDENCE, -look)


def width(until: Until, values_ms: Iterable[float], look: int) -> Width:
    """How narrow the interval of `values_ms` is at a look."""
    ordered, confidence = sorted(values_ms), confidence_of(look)
    share = PERCENTILES[until.statistic]
    ends = interval(ordered, share, confidence) if ordered else None
    value = quantile(ordered, share) if ordered else 0.0
    percent = 100 * (ends[1] - ends[0]) / value if ends and value > 0 else None
    return Width(
        str(until),
        percent is not None and percent < until.percent,
        percent,
        ends,
        confidence,
        look,
        len(ordered),
    )
