from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.loadtest import Level, Slo, metrics, slo
from nemotron_deploy.loadtest.sample import Sample

LEVEL = Level(requests=2, concurrency=1)


def sample(*arrivals: float, error: str | None = None) -> Sample:
    ended = arrivals[-1] if arrivals else 9.0
    return Sample(array("d", arrivals), ended=ended, retries=1, error=error)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=300))
def test_percentiles_agree_with_numpy(seconds: list[float]) -> None:
    found = metrics.percentiles(seconds)
    expected = np.percentile([1000 * value for value in seconds], [50, 90, 99])
    assert [found.p50, found.p90, found.p99] == pytest.approx(list(expected), abs=1e-6)
    assert found.samples == len(seconds)


def test_nothing_measured_has_no_percentiles() -> None:
    found = metrics.percentiles([])
    assert (found.p50, found.p90, found.p99, found.samples) == (None, None, None, 0)


def test_errors_count_but_never_enter_latencies_or_tokens() -> None:
    failed = sample(5.0, 6.0, error="boom")
    run = metrics.summarise(LEVEL, [sample(0.1, 0.2, 0.4), failed], duration_s=2.0)
    assert (run.requests, run.errors, run.retries) == (2, 1, 2)
    assert run.error_messages == {"boom": 1}
    assert run.ttft.p99 == pytest.approx(100)
    assert run.itl.p50 == pytest.approx(150)
    assert run.e2e.p50 == pytest.approx(400)
    assert (run.ttft.samples, run.itl.samples, run.e2e.samples) == (1, 2, 1)
    assert run.output_tokens == 3
    assert run.output_tokens_per_s == 1.5
    assert run.requests_per_s == run.goodput == 0.5


@pytest.mark.parametrize(
    ("text", "meeting"),
    [
        ("ttft_p99<150ms", 1),
        ("itl_p99<160ms", 2),
        ("itl_p99<150ms", 1),
        ("e2e_p50<450ms", 1),
        ("e2e_p50<1s", 2),
        ("errors<1%", 2),
        ("output_tokens_per_s>1000", 2),
    ],
)
def test_goodput_counts_requests_that_meet_the_latency_objectives(text: str, meeting: int) -> None:
    samples = [sample(0.1, 0.2, 0.4), sample(0.3, 0.4, 0.5), sample(0.1, error="boom")]
    run = metrics.summarise(LEVEL, samples, duration_s=1.0, slos=(slo.parse(text),))
    assert run.goodput == meeting


@given(st.lists(st.sampled_from([f"message {n}" for n in range(40)]), max_size=100))
def test_error_messages_are_bounded_and_add_up(messages: list[str]) -> None:
    run = metrics.summarise(LEVEL, [sample(error=text) for text in messages], duration_s=1.0)
    assert sum(run.error_messages.values()) == run.errors == len(messages)
    assert len(run.error_messages) <= 21


def test_an_error_objective_is_judged_in_percent() -> None:
    run = metrics.summarise(LEVEL, [sample(0.1), sample(error="boom")], duration_s=1.0)
    assert run.value(Slo("errors", None, 1.0)) == 50.0
    assert run.meets((slo.parse("errors<51%"),))
    assert not run.meets((slo.parse("errors<50%"),))
