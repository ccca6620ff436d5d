"""Searches the highest rate that meets all objectives, with a server that answers differently each
time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .statistics import confidence_of_at_most

TOLERANCE: Final = 1.025
"""The search ends when the lowest rate that fails is at most so many times the highest that meets
the objectives."""
CONFIRMED: Final = 2
"""Verdicts by which one outcome must be ahead at the rates that the result rests on."""
MOST_VERDICTS: Final = 5
"""After so many, the majority decides."""
MOST_STEPS: Final = 30
_MOST_HALVINGS: Final = 12


@dataclass(frozen=True, slots=True)
class Exceeding:
    """Of `count` requests, so many exceeded the limit of an objective that tolerates a `share`."""

    exceeding: int
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Step:
    """One rate that was tried.

    Attributes:
        rate: Requests per second.
        met: Whether all objectives were met.
        stopped_early: Whether it was ended because they could not be met any more.
        exceeding: For each objective on a percentile of requests, how many exceeded its limit.
    """

    rate: float
    met: bool
    stopped_early: bool
    exceeding: tuple[Exceeding, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search.

    Attributes:
        best: The highest rate that met the objectives, at least twice with different arrivals and
            mostly; None where none did.
        lowest_missed: The lowest rate above it that mostly did not; None where none was found.
        confidence: How sure the requests at `best` make it that the objectives hold there, from 0
            to 1; None where no objective is on a percentile of requests.
        steps: Every step, in order.
    """

    best: float | None
    lowest_missed: float | None
    confidence: float | None
    steps: tuple[Step, ...] = field(default=())


async def find_max(start: float, evaluate: Callable[[float, int], Awaitable[Step | None]]) -> Found:
    """Search from the rate `start` on. `evaluate` tries a rate, with a number that seeds its
    arrivals; it returns None where the search must end.

    Doubles or halves until one rate meets the objectives and a higher one does not, then bisects.
    Both ends of the result are tried again with other arrivals until each has two verdicts more in
    its favour than against it, or a majority of five. An end that loses its majority opens the
    search again.
    """
    steps: list[Step] = []
    while len(steps) < MOST_STEPS:
        rate = _next_rate(start, steps)
        if rate is None:
            break
        step = await evaluate(rate, len(steps))
        if step is None:
            break
        steps.append(step)
    balances = _balances(steps)
    low, high = _bracket(balances)
    confirmed = low if low is not None and _is_settled(low, steps) else None
    return Found(confirmed, high, _confidence(steps, confirmed), tuple(steps))


def _balances(steps: Sequence[Step]) -> Counter[float]:
    """For each rate that was tried: how often it met the objectives, less how often it did not."""
    balances: Counter[float] = Counter()
    for step in steps:
        balances[step.rate] += 1 if step.met else -1
    return balances


def _bracket(balances: Mapping[float, int]) -> tuple[float | None, float | None]:
    """The highest rate that meets the objectives below every rate that does not, and the lowest of
    those; a draw counts as neither."""
    high = min((rate for rate, balance in balances.items() if balance < 0), default=math.inf)
    met = (rate for rate, balance in balances.items() if balance > 0 and rate < high)
    return max(met, default=None), high if high < math.inf else None


def _is_settled(rate: float, steps: Sequence[Step]) -> bool:
    verdicts = [step.met for step in steps if step.rate == rate]
    return abs(2 * sum(verdicts) - len(verdicts)) >= CONFIRMED or len(verdicts) >= MOST_VERDICTS


def _next_rate(start: float, steps: Sequence[Step]) -> float | None:
    """The rate to try next, None where the search is over."""
    balances = _balances(steps)
    low, high = _bracket(balances)
    for rate, balance in balances.items():
        if balance == 0 and (low or 0.0) <= rate <= (high or math.inf):
            return rate
    if low is None:
        if high is None:
            return start
        return high / 2 if high > start / 2**_MOST_HALVINGS else None
    if high is None:
        return low * 2
    if high / low > TOLERANCE:
        return math.sqrt(low * high)
    return next((rate for rate in (low, high) if not _is_settled(rate, steps)), None)


def _confidence(steps: Sequence[Step], rate: float | None) -> float | None:
    """That of the least certain objective, from all requests at `rate`."""
    rows = [step.exceeding for step in steps if step.rate == rate]
    pooled = [
        confidence_of_at_most(
            sum(each.exceeding for each in column),
            sum(each.count for each in column),
            column[0].share,
        )
        for column in zip(*rows, strict=True)
    ]
    return min(pooled, default=None)
