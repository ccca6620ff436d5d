from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.errors import UsageError
from nemotron_deploy.loadtest.arrivals import Arrivals
from nemotron_deploy.loadtest.statistics import PERCENTILES, summary

KINDS = st.sampled_from(["poisson", "constant", "gamma:0.5", "gamma:4"])


@given(KINDS, st.floats(0.01, 1000), st.integers(0, 200), st.integers())
def test_times_never_go_back_and_repeat_with_the_seed(
    kind: str, rate: float, count: int, seed: int
) -> None:
    arrivals = Arrivals.parse(kind)
    times = list(arrivals.schedule(rate, count, seed))
    assert len(times) == count
    assert all(0 <= earlier <= later for earlier, later in pairwise(times))
    assert times == list(arrivals.schedule(rate, count, seed))


@pytest.mark.parametrize(
    ("kind", "variation"),
    [("poisson", 1.0), ("constant", 0.0), ("gamma:0.25", 2.0), ("gamma:4", 0.5)],
)
def test_gaps_are_distributed_as_they_should(kind: str, variation: float) -> None:
    times = list(Arrivals.parse(kind).schedule(50.0, 40_000, seed=1))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert deviation / mean == pytest.approx(variation, rel=0.05, abs=1e-6)


@pytest.mark.parametrize(
    "text", ["", "uniform", "gamma", "gamma:", "gamma:0", "gamma:-1", "gamma:x"]
)
def test_other_kinds_are_named(text: str) -> None:
    with pytest.raises(UsageError, match="--arrivals"):
        Arrivals.parse(text)


def md1_wait(utilization: float, share: float) -> float:
    """The time that the `share` of requests does not wait longer than in an M/D/1 queue whose
    service takes 1 (Erlang 1909; Tijms, A First Course in Stochastic Models, 9.5)."""

    def at_most(wait: float) -> float:
        return (1 - utilization) * math.fsum(
            (utilization * (k - wait)) ** k / math.factorial(k) * math.exp(utilization * (wait - k))
            for k in range(math.floor(wait) + 1)
        )

    low, high = 0.0, 30.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(middle) < share else (low, middle)
    return low


@pytest.mark.parametrize("utilization", [0.5, 0.8])
def test_percentiles_of_an_open_loop_are_those_of_the_queue_before_the_server(
    utilization: float,
) -> None:
    """Served one by one, each in a second: only random arrivals of the right rate give these."""
    free, waits = 0.0, []
    for due in Arrivals().schedule(utilization, 200_000, seed=1):
        free = max(free, due)
        waits.append(free - due)
        free += 1.0
    measured = summary(waits)
    for name in ("p75", "p90", "p95", "p99"):
        expected = md1_wait(utilization, PERCENTILES[name])
        assert measured.at(name) == pytest.approx(expected, rel=0.05), name
