"""Confidence intervals of scores and of their differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

CONFIDENCE: Final = 0.95
_Z: Final = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)

METHOD: Final = (
    "95 % confidence intervals: Wilson's of each score, Newcombe's (his method 10) of each "
    "difference. They take questions for independent, and are too wide rather than too narrow "
    "where a question has a score between 0 and 1."
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, as shares of 1."""

    low: float
    high: float


def wilson(mean: float, count: int) -> Interval:
    """The interval of a mean of `count` scores between 0 and 1.

    Wilson's score interval, which holds for shares near 0 and 1, too. It assumes scores of 0 and 1,
    whose variance is the largest that scores with this mean can have.
    """
    square = _Z * _Z
    centre = (mean + square / (2 * count)) / (1 + square / count)
    variance = mean * (1 - mean) / count + square / (4 * count * count)
    half = _Z * math.sqrt(variance) / (1 + square / count)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def difference(mean: float, count: int, other: float, other_count: int) -> Interval:
    """The interval of `mean` minus `other`, of independent samples: Newcombe's hybrid score
    interval (Statistics in Medicine 17, 1998, method 10)."""
    own, others = wilson(mean, count), wilson(other, other_count)
    below = math.hypot(mean - own.low, others.high - other)
    above = math.hypot(own.high - mean, other - others.low)
    return Interval(mean - other - below, mean - other + above)
