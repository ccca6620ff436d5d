from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.loadtest import Level, LoadTest, LoadTestReport, metrics
from nemotron_deploy.loadtest.comparison import Comparison, compare
from nemotron_deploy.tests.loadtest.samples import STARTED, sample

LEVEL = Level(400, concurrency=4)


def saved(path: Path, ttft: float, *, seed: int, count: int = 400, **fields: Any) -> Path:
    """A report whose first tokens take `ttft` seconds, more or less."""
    generator = random.Random(seed)
    samples = []
    for number in range(count):
        first = ttft * generator.uniform(0.8, 1.2)
        samples.append(sample(first, first + 0.1, first + 0.2, due=number / 20))
    run = metrics.summarise(LEVEL, samples, count / 20 + 1, test=LoadTest(prompts=["x"]))
    defaults = {
        "model": "mock", "url": "grpc://localhost:1", "max_tokens": 3,
        "token_counting": "responses", "duration_s": 1.0, "seed": 7, "runs": (run,), **STARTED,
    }  # fmt: skip
    path.write_text(json.dumps(LoadTestReport(**{**defaults, **fields}).to_json()))
    return path


def figures(found: Comparison, figure: str) -> tuple[bool | None, bool]:
    (change,) = [change for change in found.changes if change.figure == figure]
    return change.significant, change.worse


def test_the_same_server_twice_differs_by_noise_only(tmp_path: Path) -> None:
    for seed in range(20):
        one = saved(tmp_path / "a.json", 0.5, seed=seed)
        other = saved(tmp_path / "b.json", 0.5, seed=seed + 100)
        found = compare(one, other)
        assert found.ok, [change for change in found.changes if change.significant]
        assert found.missing == ()


def test_a_slower_server_is_worse_and_a_faster_one_is_not(tmp_path: Path) -> None:
    one = saved(tmp_path / "a.json", 0.5, seed=1)
    other = saved(tmp_path / "b.json", 0.55, seed=2)
    slower, faster = compare(one, other), compare(other, one)
    assert figures(slower, "ttft_ms p50") == (True, True)
    assert figures(faster, "ttft_ms p50") == (True, False)
    assert (slower.ok, faster.ok) == (False, True)
    assert figures(slower, "tpot_ms p50")[0] is False


def test_few_requests_cannot_say(tmp_path: Path) -> None:
    one = saved(tmp_path / "a.json", 0.5, seed=1, count=16)
    other = saved(tmp_path / "b.json", 0.7, seed=2, count=16)
    found = compare(one, other)
    assert figures(found, "ttft_ms p99")[0] is None
    assert figures(found, "ttft_ms p50") == (True, True)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"max_tokens": 4}, "`max_tokens` is 4 here and 3 there"),
        ({"token_counting": "server"}, "`token_counting`"),
        ({"runs": ()}, "no load in common"),
    ],
)
def test_reports_that_cannot_be_compared(
    tmp_path: Path, fields: dict[str, Any], problem: str
) -> None:
    one = saved(tmp_path / "a.json", 0.5, seed=1, count=20)
    other = saved(tmp_path / "b.json", 0.5, seed=1, count=20, **fields)
    with pytest.raises(BadInputError, match=problem):
        compare(one, other)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"runs": 3}', '{"runs": [{"rate": "x"}]}'])
def test_files_that_are_no_reports(tmp_path: Path, text: str) -> None:
    one = saved(tmp_path / "a.json", 0.5, seed=1, count=20)
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(BadInputError, match=r"b\.json"):
        compare(one, tmp_path / "b.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="No such file"):
        compare(tmp_path / "a.json", tmp_path / "b.json")
