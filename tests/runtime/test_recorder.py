"""What a served model counts, as Prometheus sees it."""

from __future__ import annotations

import math

import pytest

from nemotron_deploy.runtime import contract
from nemotron_deploy.runtime.contract import Metric, Series, series
from nemotron_deploy.runtime.generation import Failure
from nemotron_deploy.runtime.recorder import OUTCOMES, Recorder


def _histogram(recorder: Recorder, metric: Metric) -> tuple[list[float], float, float]:
    *buckets, total, count = (recorder.totals()[one] for one in series(metric))
    return buckets, total, count


def test_every_series_is_there_from_the_start() -> None:
    """A rate of a series needs a value before the first event."""
    expected = {one for m in contract.METRICS if m.type != "gauge" for one in series(m)}
    totals = Recorder().totals()
    assert totals.keys() == expected
    assert not any(totals.values())


def test_every_failure_has_an_outcome() -> None:
    assert OUTCOMES.keys() == set(Failure)
    assert set(OUTCOMES.values()) <= set(contract.REQUESTS.values)


def test_requests_are_counted_by_outcome() -> None:
    recorder = Recorder()
    for end in ("stop", "stop", "length", Failure.CANCELLED, Failure.INVALID):
        recorder.ended(end)
    counts = {one.value: recorder.totals()[one] for one in series(contract.REQUESTS)}
    assert {name: count for name, count in counts.items() if count} == {
        "stop": 2, "length": 1, "cancelled": 1, "refused": 1,
    }  # fmt: skip


def test_tokens_are_counted_as_they_come() -> None:
    recorder = Recorder()
    recorder.prompt(7)
    recorder.first_tokens(1, 0.5)
    recorder.next_tokens(3, 0.1)
    totals = recorder.totals()
    assert totals[Series(contract.PROMPT_TOKENS.name)] == 7
    assert totals[Series(contract.OUTPUT_TOKENS.name)] == 4
    assert _histogram(recorder, contract.TIME_TO_FIRST_TOKEN)[1:] == (0.5, 1)
    assert _histogram(recorder, contract.INTER_TOKEN_TIME)[1:] == (0.1, 1)


def test_a_bucket_counts_what_is_at_most_its_bound() -> None:
    recorder, metric = Recorder(), contract.QUEUE_TIME
    for seconds in (0.0, 0.001, 0.002, 299, 10**6):
        recorder.queued(seconds)
    buckets, total, count = _histogram(recorder, metric)
    assert dict(zip(metric.buckets, buckets, strict=True)) == {
        bound: sum(seconds <= bound for seconds in (0.0, 0.001, 0.002, 299, 10**6))
        for bound in metric.buckets
    }
    assert total == pytest.approx(1000299.003)
    assert count == 5


@pytest.mark.parametrize("metric", contract.METRICS, ids=lambda metric: metric.name)
def test_names_follow_prometheus(metric: Metric) -> None:
    """Counters end in `_total`, other names in their unit; a histogram's last bucket has no end."""
    assert metric.name.startswith("nemo_deploy_")
    assert metric.type in ("counter", "gauge", "histogram")
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert metric.name.endswith("_seconds") == (metric.type == "histogram")
    assert bool(metric.buckets) == (metric.type == "histogram")
    if metric.buckets:
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert metric.buckets[-1] == math.inf
        assert {one.name.removeprefix(metric.name) for one in series(metric)} == {
            "_bucket", "_sum", "_count",
        }  # fmt: skip
