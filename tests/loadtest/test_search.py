"""The search against simulated queues, whose capacity is known."""

from __future__ import annotations

import asyncio
import random

import pytest

from nemotron_deploy.loadtest.arrivals import Arrivals
from nemotron_deploy.loadtest.search import (
    CONFIRMED,
    MOST_STEPS,
    MOST_VERDICTS,
    TOLERANCE,
    Exceeding,
    Found,
    Step,
    find_max,
)
from nemotron_deploy.loadtest.statistics import confidence_of_at_most, summary

CAPACITY = 40.0


def queue_waits(rate: float, count: int, seed: int) -> list[float]:
    """Seconds that each of `count` requests spends in an M/D/1 queue of the capacity above."""
    free, waits = 0.0, []
    for due in Arrivals().schedule(rate, count, seed):
        free = max(free, due) + 1 / CAPACITY
        waits.append(free - due)
    return waits


def evaluated(rate: float, waits: list[float], limit: float, share: float) -> Step:
    value = summary(waits).at("p90")
    assert value is not None
    over = sum(wait >= limit for wait in waits)
    return Step(rate, value < limit, False, (Exceeding(over, len(waits), share),))


def search(limit: float, start: float, count: int = 400) -> Found:
    async def evaluate(rate: float, seed: int) -> Step:
        return evaluated(rate, queue_waits(rate, count, 1000 + seed), limit, 0.1)

    return asyncio.run(find_max(start, evaluate))


def true_rate(limit: float) -> float:
    """The rate at which one request in ten of a very long run takes as long as `limit`."""
    low, high = 1.0, CAPACITY
    for _ in range(20):
        middle = (low + high) / 2
        value = summary(queue_waits(middle, 60_000, 1)).at("p90")
        assert value is not None
        low, high = (middle, high) if value < limit else (low, middle)
    return low


@pytest.mark.parametrize("start", [0.5, 30.0, 3000.0])
def test_the_rate_of_a_queue_is_found_wherever_the_search_starts(start: float) -> None:
    found = search(limit=0.1, start=start, count=4000)
    assert found.best == pytest.approx(true_rate(0.1), rel=0.05)
    assert found.best is not None
    assert found.lowest_missed is not None
    assert found.best < found.lowest_missed <= found.best * TOLERANCE * 1.0001
    assert len(found.steps) < MOST_STEPS


def test_both_ends_of_the_result_are_tried_more_than_once() -> None:
    found = search(limit=0.1, start=5.0)
    met = [step.met for step in found.steps if step.rate == found.best]
    missed = [not step.met for step in found.steps if step.rate == found.lowest_missed]
    for verdicts in (met, missed):
        ahead = sum(verdicts) - sum(not verdict for verdict in verdicts)
        assert ahead == CONFIRMED or (len(verdicts) == MOST_VERDICTS and ahead > 0)


def test_a_lucky_rate_is_given_up() -> None:
    tried: list[float] = []

    async def evaluate(rate: float, seed: int) -> Step:
        lucky = rate > 10 and not any(earlier > 10 for earlier in tried)
        tried.append(rate)
        return Step(rate, rate <= 10 or lucky, False, ())

    found = asyncio.run(find_max(8.0, evaluate))
    assert found.best is not None
    assert 10 / TOLERANCE <= found.best <= 10
    assert found.confidence is None, "no objective is on a percentile of requests"


def test_confidence_says_how_sure_the_requests_make_it() -> None:
    async def evaluate(rate: float, seed: int) -> Step:
        return Step(rate, rate < 10, False, (Exceeding(0, 150, 0.01), Exceeding(9, 150, 0.1)))

    found = asyncio.run(find_max(8.0, evaluate))
    assert sum(step.rate == found.best for step in found.steps) == 2
    assert found.confidence == min(
        confidence_of_at_most(0, 300, 0.01), confidence_of_at_most(18, 300, 0.1)
    )


def test_a_server_that_is_always_too_slow_has_no_rate() -> None:
    found = search(limit=0.001, start=10.0)
    assert (found.best, found.confidence) == (None, None)
    assert len(found.steps) < MOST_STEPS


def test_a_search_that_must_end_gives_its_steps() -> None:
    async def evaluate(rate: float, seed: int) -> Step | None:
        return Step(rate, True, False, ()) if seed < 3 else None

    found = asyncio.run(find_max(1.0, evaluate))
    assert [step.rate for step in found.steps] == [1.0, 2.0, 4.0]
    assert found.best is None


def test_noise_does_not_keep_the_search_from_ending() -> None:
    generator = random.Random(3)

    async def evaluate(rate: float, seed: int) -> Step:
        return Step(rate, generator.random() < 0.5, False, ())

    assert len(asyncio.run(find_max(1.0, evaluate)).steps) <= MOST_STEPS
