from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.loadtest import arrivals


@given(st.floats(0.01, 1000), st.integers(0, 200), st.integers())
def test_times_never_go_back_and_repeat_with_the_seed(rate: float, count: int, seed: int) -> None:
    times = list(arrivals.poisson(rate, count, seed))
    assert len(times) == count
    assert all(0 <= earlier <= later for earlier, later in pairwise(times))
    assert times == list(arrivals.poisson(rate, count, seed))


def test_gaps_are_exponential() -> None:
    times = list(arrivals.poisson(rate=50.0, count=20_000, seed=1))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(1 / 50, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.05)
