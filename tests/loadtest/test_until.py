"""Levels that end when an interval is narrow enough."""

from __future__ import annotations

import json
import math
import random
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy import loadtest
from nemotron_deploy.core.errors import UsageError
from nemotron_deploy.loadtest import Level, LoadTest, slo
from nemotron_deploy.loadtest.client_clock import Disturbance
from nemotron_deploy.loadtest.looks import Looks, without_unfinished
from nemotron_deploy.loadtest.sample import Failure, Kind, Sample
from nemotron_deploy.loadtest.share import Held, InFlight
from nemotron_deploy.loadtest.until import Until, confidence_of, parse, width
from nemotron_deploy.tests.loadtest.samples import sample

LEVEL = Level(4000, rate=10.0)


def test_it_reads_what_it_writes() -> None:
    assert parse("ttft_p99<10%") == Until("ttft", "p99", 10.0, 600.0)
    assert parse(" e2e_p99.9 < 2.5%, 90s") == Until("e2e", "p99.9", 2.5, 90.0)
    assert parse(str(Until("tpot", "p50", 0.5, 7.0))) == Until("tpot", "p50", 0.5, 7.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ttft<10%",
        "ttft_p99<10",
        "ttft_p99<0%",
        "itl_p99<10%",
        "ttft_mean<10%",
        "ttft_p99<9%,0s",
    ],
)
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--until"):
        parse(text)


@pytest.mark.parametrize("other", [{"find_max": True}, {"schedule": (0.0, 1.0)}])
def test_tests_with_ends_of_their_own_are_refused(other: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--until ends levels of"):
        LoadTest(
            prompts=["x"], until=parse("ttft_p50<9%"), slos=(slo.parse("ttft_p50<1s"),), **other
        )


def test_the_first_look_has_enough_requests_for_an_interval() -> None:
    assert parse("ttft_p50<10%").first_look == 50
    first = parse("ttft_p99<10%").first_look
    assert first == math.ceil(math.log((1 - confidence_of(1)) / 2) / math.log(0.99))


def test_intervals_hold_as_often_as_they_say_though_they_end_the_test() -> None:
    """The median of an exponential distribution is log 2. One that is looked at after every
    request, and ends the test when it is narrow, misses it more often."""
    until, generator = parse("ttft_p50<25%,99999s"), random.Random(3)
    truth, held, runs = 1000 * math.log(2), 0, 200
    for _ in range(runs):
        looks, samples = Looks(until, LEVEL), list[Sample]()
        while not looks.enough(samples, (), len(samples)):
            due = float(len(samples))
            samples.append(sample(generator.expovariate(1), due=due))
        found = width(until, [1000 * each.arrivals[0] for each in samples], looks.last)
        assert found.reached
        assert found.interval is not None
        held += found.interval[0] <= truth <= found.interval[1]
    assert held / runs >= 0.95


def test_requests_count_up_to_the_first_that_has_not_ended() -> None:
    until = parse("ttft_p50<100%")
    samples = [sample(0.1 + number / 1000, due=float(number)) for number in range(60)]
    waiting = InFlight(waited_s=60.0 - 30.5, silent=True)
    assert not Looks(until, LEVEL).enough(samples, [waiting], 60.0), "31 of them count"
    assert Looks(until, LEVEL).enough(samples, [InFlight(0.5, silent=True)], 60.0)
    assert Looks(parse("ttft_p50<1%,59s"), LEVEL).enough([], [], 60.0), "the time is over"


def test_a_level_that_was_cut_off_ends_where_the_first_unfinished_request_was_due() -> None:
    def unfinished(due: float) -> Sample:
        return sample(due=due, failure=Failure(Kind.UNFINISHED, "cut off"))

    samples = [sample(0.1, due=1.0), unfinished(2.0), sample(0.1, due=3.0), unfinished(4.0)]
    held = Held(samples, 5.0, [], None, Disturbance(array("d"), 0.0, 0.0, 0.0))
    kept, cut = without_unfinished(held)
    assert (kept.samples, kept.duration_s, kept.exhausted, cut) == (samples[:1], 2.0, 2.0, 2.0)


def prompts() -> list[str]:
    return [json.dumps({"gap_s": gap / 1000}) for gap in range(3, 8)]


def test_a_level_ends_when_its_interval_is_narrow(
    fake_triton: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "samples.jsonl"
    test = LoadTest(
        prompts=prompts(), until=parse("e2e_p50<900%"), concurrencies=(2,), warmup=0,
        allow_late=True, max_tokens=4,
    )  # fmt: skip
    report = loadtest.run(fake_triton().url, test, out=out)
    (run,) = report.runs
    assert run.until is not None
    assert run.until.reached
    assert (run.until.looks, run.until.confidence) == (1, confidence_of(1))
    assert 50 <= run.until.requests <= run.requests < 4000
    assert (run.complete, run.errors) == (True, 0)
    assert report.ok
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) >= run.requests
    assert sum(line["measured"] for line in lines) == run.measured


@pytest.mark.parametrize(("rule", "requests"), [("e2e_p50<0.0001%", 60), ("e2e_p50<9%,0.3s", 999)])
def test_a_level_that_ends_at_its_limit_says_so(
    fake_triton: Callable[..., Any], rule: str, requests: int
) -> None:
    test = LoadTest(
        prompts=prompts()[:1], until=parse(rule), concurrencies=(1,), requests=requests, warmup=0,
        allow_late=True, max_tokens=4,
    )  # fmt: skip
    (run,) = loadtest.run(fake_triton().url, test).runs
    document = run.to_json()["until"]
    assert run.complete
    if requests == 60:
        assert run.requests == 60
        assert document["reached"] is False
    else:
        assert run.requests < 999
    assert document["rule"].startswith(rule)
