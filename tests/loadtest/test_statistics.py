from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.loadtest.statistics import (
    PERCENTILES,
    STATISTICS,
    confidence_of_at_most,
    summary,
)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=300))
def test_percentiles_agree_with_numpy(values: list[float]) -> None:
    found = summary(values)
    expected = np.percentile(values, [100 * share for share in PERCENTILES.values()])
    assert [found.at(name) for name in PERCENTILES] == pytest.approx(list(expected), abs=1e-6)
    assert found.at("mean") == pytest.approx(np.mean(values))
    assert (found.at("min"), found.at("max")) == (min(values), max(values))
    assert found.samples == len(values)


def test_nothing_has_no_statistics() -> None:
    found = summary([])
    assert found.samples == 0
    assert not any(found.values[name] for name in STATISTICS)
    assert not any(found.intervals.values())


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=99))
def test_a_failure_is_slower_than_anything(values: list[float]) -> None:
    found = summary(values, infinite=1)
    assert found.at("max") == math.inf
    assert found.at("p99") == math.inf
    assert found.at("min") == min(values)


def test_half_of_failures_decide_the_median() -> None:
    assert summary([1.0, 1.0], infinite=2).at("p50") == math.inf
    assert summary([1.0, 1.0, 1.0], infinite=1).at("p50") == 1.0


@pytest.mark.parametrize(("count", "carried"), [(16, "p50"), (40, "p90"), (400, "p99")])
def test_few_values_carry_no_interval_of_a_far_percentile(count: int, carried: str) -> None:
    names = list(PERCENTILES)
    found = summary(map(float, range(count)))
    for name in names[: names.index(carried) + 1]:
        assert found.intervals[name] is not None, name
    assert found.intervals["p99.9"] is None
    if count < 368:
        assert found.intervals["p99"] is None


@pytest.mark.parametrize("name", ["p50", "p90", "p95"])
@pytest.mark.parametrize("count", [100, 2500])
def test_intervals_cover_as_often_as_they_claim(name: str, count: int) -> None:
    generator = random.Random(7)
    true = -math.log(1 - PERCENTILES[name])
    covered, rounds = 0, 400 if count < 1000 else 100
    for _ in range(rounds):
        interval = summary(generator.expovariate(1) for _ in range(count)).intervals[name]
        assert interval is not None
        covered += interval[0] <= true <= interval[1]
    assert 0.92 <= covered / rounds <= 0.99


def test_values_that_depend_on_each_other_get_no_interval() -> None:
    assert not any(summary(map(float, range(999)), independent=False).intervals.values())


def test_confidence_grows_with_the_requests_and_falls_with_what_exceeds() -> None:
    assert confidence_of_at_most(0, 299, 0.01) == pytest.approx(0.95, abs=0.001)
    assert confidence_of_at_most(0, 16, 0.01) < 0.2
    assert confidence_of_at_most(3, 299, 0.01) < confidence_of_at_most(1, 299, 0.01)
    assert confidence_of_at_most(10, 10, 0.5) == pytest.approx(0.0)
