"""Confidence intervals, against published examples and by simulation."""

from __future__ import annotations

import random

import pytest

from nemotron_deploy.evaluation.intervals import difference, wilson


def test_a_known_interval_of_a_share() -> None:
    interval = wilson(0.8, 10)
    assert interval.low == pytest.approx(0.4902, abs=1e-4)
    assert interval.high == pytest.approx(0.9433, abs=1e-4)


def test_shares_at_the_ends_have_intervals() -> None:
    assert wilson(0.0, 20).low == pytest.approx(0, abs=1e-12)
    assert 0.1 < wilson(0.0, 20).high < 0.2
    assert wilson(1.0, 20).high == pytest.approx(1, abs=1e-12)


def test_newcombes_own_example_of_a_difference() -> None:
    """Statistics in Medicine 17 (1998), 873-890, table II, column (a), method 10."""
    interval = difference(56 / 70, 70, 48 / 80, 80)
    assert interval.low == pytest.approx(0.0524, abs=1e-4)
    assert interval.high == pytest.approx(0.3339, abs=1e-4)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_differences_of_equal_models_are_within_noise_as_often_as_claimed(share: float) -> None:
    rng = random.Random(5)
    inside = 0
    for _ in range(1000):
        one, other = (
            sum(rng.random() < share for _ in range(100)) / 100,
            sum(rng.random() < share for _ in range(150)) / 150,
        )
        interval = difference(one, 100, other, 150)
        inside += interval.low <= 0 <= interval.high
    assert 930 <= inside <= 995
