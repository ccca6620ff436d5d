from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.errors import UsageError
from nemotron_deploy.loadtest.arrivals import Arrivals

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
