from __future__ import annotations

from typing import Any

import pytest

from nemotron_deploy.core.errors import UsageError
from nemotron_deploy.loadtest import Level, LoadTest


def test_closed_loop_levels_give_every_client_work() -> None:
    test = LoadTest(prompts=["x"], concurrencies=(1, 32))
    assert test.levels() == (Level(16, concurrency=1), Level(128, concurrency=32))


def test_an_open_loop_is_one_level_for_each_rate() -> None:
    assert LoadTest(prompts=["x"], rates=(2.5,)).levels() == (Level(75, rate=2.5),)
    assert LoadTest(prompts=["x"], rates=(2.5,), requests=3).levels() == (Level(3, rate=2.5),)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"prompts": []}, "prompt"),
        ({"prompts": ["x", ""]}, "prompt"),
        ({"concurrencies": ()}, "concurrency"),
        ({"concurrencies": (1, 0)}, "concurrency"),
        ({"rates": (0.0,)}, "rate"),
        ({"rates": (1.0, float("nan"))}, "rate"),
        ({"rates": (float("inf"),)}, "rate"),
        ({"requests": 3, "concurrencies": (1, 4)}, "3 requests .* 4 clients"),
        ({"requests": 0}, "0 requests"),
        ({"warmup": -1}, "warm-up"),
        ({"max_tokens": 0}, "tokens"),
        ({"timeout_s": 0.0}, "timeout"),
    ],
)
def test_values_out_of_range_are_named(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        LoadTest(**{"prompts": ["x"], **fields})


def test_a_schedule_is_one_level_at_its_own_rate() -> None:
    test = LoadTest(prompts=["x"], schedule=(0.0, 1.0, 4.0))
    assert test.levels() == (Level(3, rate=0.75),)
    for fields in ({"rates": (1.0,)}, {"requests": 3}):
        with pytest.raises(UsageError, match="a trace says when"):
            LoadTest(prompts=["x"], schedule=(0.0,), **fields)
