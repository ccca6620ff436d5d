from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.loadtest import Level, LoadTest, Run, Slo, metrics, slo
from nemotron_deploy.loadtest.client_clock import Disturbance
from nemotron_deploy.loadtest.metrics import Window
from nemotron_deploy.loadtest.sample import Sample
from nemotron_deploy.tests.loadtest.samples import sample

LEVEL = Level(requests=2, concurrency=1)


def summarise(
    *samples: Sample,
    slos: tuple[Slo, ...] = (),
    duration_s: float = 1.0,
    steady: Window | None = None,
    lags: tuple[float, ...] | None = None,
) -> Run:
    disturbance = None if lags is None else Disturbance(array("d", lags), 0.5, 0.5, 1.0)
    return metrics.summarise(
        LEVEL, samples, duration_s, test=LoadTest(prompts=["x"], slos=slos), steady=steady,
        disturbance=disturbance,
    )  # fmt: skip


def test_errors_count_but_never_enter_latencies_or_tokens() -> None:
    failed = sample(5.0, 6.0, error="boom", retries=1)
    run = summarise(sample(0.1, 0.2, 0.4, retries=1), failed, duration_s=2.0)
    assert (run.requests, run.errors, run.retries, run.measured) == (2, 1, 2, 1)
    assert run.error_messages == {"boom": 1}
    expected = {"ttft": (100, 1), "itl": (150, 2), "tpot": (150, 1), "e2e": (400, 1)}
    for name, (median, samples) in expected.items():
        assert run.latencies[name].at("p50") == pytest.approx(median)
        assert run.latencies[name].samples == samples
    assert run.output_tokens == 3
    assert run.output_tokens_per_s == 1.5
    assert run.requests_per_s == run.goodput == 0.5
    assert run.attainment == 0.5


def test_latencies_count_from_the_intended_and_from_the_actual_send() -> None:
    late = sample(0.5, 0.9, sent=0.3, ended=1.0, content=0.9, queue=0.2)
    run = summarise(late)
    expected = {
        "ttft": 500, "ttft_from_send": 200, "e2e": 900, "e2e_from_send": 600, "stream": 1000,
        "content": 900, "queue": 200, "lateness": 300,
    }  # fmt: skip
    for name, value in expected.items():
        assert run.latencies[name].at("p50") == pytest.approx(value), name


def test_several_tokens_in_a_response_are_several_tokens() -> None:
    run = summarise(sample(1.0, 1.4, 1.8, 2.2, server_tokens=16))
    assert (run.output_tokens, run.token_counting) == (16, "server")
    assert run.latencies["itl"].at("p50") == pytest.approx(100)
    assert run.latencies["itl"].samples == 12
    assert run.latencies["tpot"].at("p50") == pytest.approx(100), "of the 12 after the first four"


def test_the_report_says_the_least_trustworthy_counting() -> None:
    run = summarise(sample(0.1, 0.2), sample(0.1, 0.2, server_tokens=2))
    assert run.token_counting == "responses"


def test_outputs_that_are_shorter_than_asked_for_are_flagged() -> None:
    run = summarise(*(sample(0.1, 0.2, asked=asked) for asked in (2, 2, 3, 2)))
    assert (run.short_outputs.count, run.short_outputs.share) == (1, 0.25)


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
    run = summarise(*samples, slos=(slo.parse(text),))
    assert run.goodput == meeting
    assert run.attainment == pytest.approx(meeting / 3)


@given(st.lists(st.sampled_from([f"message {n}" for n in range(40)]), max_size=100))
def test_error_messages_are_bounded_and_add_up(messages: list[str]) -> None:
    run = summarise(*(sample(error=text) for text in messages))
    assert sum(run.error_messages.values()) == run.errors == len(messages)
    assert len(run.error_messages) <= 21


def test_errors_are_counted_by_kind_with_the_first_and_the_last() -> None:
    failed = [sample(error="boom", due=due, ended=1.0) for due in (4.0, 2.0, 3.0)]
    run = summarise(*failed, duration_s=6.0)
    (kind,) = run.error_kinds
    assert kind == "server error"
    errors = run.error_kinds[kind]
    assert (errors.count, errors.first_s, errors.last_s) == (3, 3.0, 5.0)


def test_an_error_objective_is_judged_in_percent() -> None:
    run = summarise(sample(0.1), sample(error="boom"))
    assert run.value(Slo("errors", None, 1.0)) == 50.0
    assert run.meets((slo.parse("errors<51%"),))
    assert not run.meets((slo.parse("errors<50%"),))


@pytest.mark.parametrize("text", ["ttft_p50<1s", "itl_p50<1s", "e2e_p90<1s"])
def test_failed_requests_are_infinitely_slow_for_an_objective(text: str) -> None:
    objective = slo.parse(text)
    fine, failed = [sample(0.1, 0.2, 0.3)] * 4, [sample(error="boom")] * 6
    assert summarise(*fine, slos=(objective,)).meets((objective,))
    run = summarise(*fine, *failed, slos=(objective,))
    assert run.value(objective) == math.inf
    assert not run.meets((objective,))
    judged = run.judgement(objective)
    assert judged["value"] is None
    assert judged["survivors"] is not None


def test_only_the_steady_state_is_measured() -> None:
    before, within, after = (sample(0.5, 1.0, due=due) for due in (0.0, 2.0, 3.9))
    run = summarise(before, within, after, duration_s=5.0, steady=Window(1.0, 4.0))
    assert (run.requests, run.measured) == (3, 2)
    assert run.requests_per_s == pytest.approx(1 / 3), "one ended in the window"
    assert run.output_tokens_per_s == pytest.approx(2 / 3), "those that arrived in the window"
    assert run.steady_s == (1.0, 4.0)
    assert run.throughput == (1, 1, 1, 1, 2)


def test_a_client_that_sends_late_makes_a_run_invalid() -> None:
    on_time = summarise(*(sample(1.0, 1.1, sent=0.01) for _ in range(9)), lags=(0.001,))
    assert on_time.client.valid
    late = summarise(*(sample(1.0, 1.1, sent=0.2) for _ in range(9)), lags=(0.001,))
    assert not late.client.valid
    assert "requests were sent late" in late.client.reasons[0]
    assert "200.0 ms, more than 10% of ttft p50, 1000.0 ms" in late.client.reasons[0]


def test_an_event_loop_that_lags_makes_a_run_invalid() -> None:
    assert not summarise(sample(1.0, 1.1), lags=(0.001, 0.3)).client.valid


def test_responses_that_waited_in_the_client_make_a_run_invalid() -> None:
    waits = array("d", [0.01, 0.02])
    run = summarise(sample(1.0, 1.1, waits=waits))
    assert [reason.partition(":")[0] for reason in run.client.reasons] == [
        "responses waited in the client"
    ]
    assert "itl p50" in run.client.reasons[0]
