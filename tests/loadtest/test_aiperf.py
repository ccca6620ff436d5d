"""AIPerf's definitions, computed by hand."""

from __future__ import annotations

import pytest

from nemotron_deploy.core.errors import UsageError
from nemotron_deploy.loadtest import Level, LoadTest, Run, metrics
from nemotron_deploy.loadtest.aiperf import UNITS
from nemotron_deploy.loadtest.metrics import Window
from nemotron_deploy.loadtest.sample import Sample
from nemotron_deploy.tests.loadtest.samples import sample


def summarise(*samples: Sample, definitions: str | None = "aiperf") -> Run:
    test = LoadTest(prompts=["x"], definitions=definitions)
    level = Level(len(samples), concurrency=1)
    return metrics.summarise(level, samples, 10.0, test=test, steady=Window(5.0, 9.0))


def test_its_metrics_of_the_same_samples() -> None:
    """All requests count, from their actual send, and a chunk of several tokens is one chunk."""
    run = summarise(
        sample(0.5, 0.7, 1.0, sent=0.3, server_tokens=8, ended=1.5),
        sample(0.2, 0.4, due=1.0, server_tokens=3),
        sample(error="boom", due=2.0),
    )
    assert run.aiperf is not None
    averages = {name: figures["avg"] for name, figures in run.aiperf.items()}
    assert averages == {
        "time_to_first_token": pytest.approx(200),
        "time_to_second_token": pytest.approx(200),
        "request_latency": pytest.approx((700 + 400) / 2),
        "inter_token_latency": pytest.approx((500 / 7 + 200 / 2) / 2),
        "inter_chunk_latency": pytest.approx((200 + 300 + 200) / 3),
        "output_token_throughput_per_user": pytest.approx((14 + 10) / 2),
        "output_sequence_length": pytest.approx(5.5),
        "output_token_throughput": pytest.approx(11 / 1.1),
        "request_throughput": pytest.approx(2 / 1.1),
        "benchmark_duration": pytest.approx(1.1),
        "request_count": 2,
        "error_request_count": 1,
    }
    assert run.aiperf.keys() == UNITS.keys()
    latency = run.aiperf["request_latency"]
    assert latency["min"] == pytest.approx(400)
    assert latency["max"] == pytest.approx(700)
    assert latency["p90"] == pytest.approx(670)
    assert latency["std"] == pytest.approx(150)
    assert latency["count"] == 2
    assert run.to_json()["aiperf"]["request_latency"] == latency


def test_what_has_no_value_is_missing() -> None:
    run = summarise(sample(error="boom"))
    assert run.aiperf == {"request_count": {"avg": 0.0}, "error_request_count": {"avg": 1.0}}
    alone = summarise(sample(0.1))
    assert alone.aiperf is not None
    assert "inter_token_latency" not in alone.aiperf


def test_only_where_it_is_asked_for() -> None:
    run = summarise(sample(0.1), definitions=None)
    assert run.to_json()["aiperf"] is None
    with pytest.raises(UsageError, match="--definitions 'vllm': must be aiperf"):
        summarise(sample(0.1), definitions="vllm")
