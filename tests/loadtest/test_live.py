"""What is shown while a level is held."""

from __future__ import annotations

import random
import statistics

import pytest

from nemotron_deploy.loadtest import Level, Progress
from nemotron_deploy.loadtest.live import TEXT_EVERY_S, LiveFigures, Sketch
from nemotron_deploy.loadtest.sample import Sample
from nemotron_deploy.tests.loadtest.samples import sample


def progress(samples: list[Sample], errors: int = 0, in_flight: int = 0) -> Progress:
    level = Level(100, concurrency=4)
    return Progress(level, 0, 1, len(samples), errors, samples, lambda: in_flight)


def test_percentiles_are_right_to_one_percent() -> None:
    generator = random.Random(1)
    values = [generator.lognormvariate(-3, 1) for _ in range(5000)]
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    cuts = statistics.quantiles(values, n=100)
    for percent in (50, 90, 99):
        found = sketch.percentile_ms(percent / 100)
        assert found == pytest.approx(1000 * cuts[percent - 1], rel=0.02)
    assert Sketch().percentile_ms(0.5) is None


def test_the_figures_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [50.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    figures = LiveFigures()
    samples = [sample(0.1, 0.15, 0.2, due=0.0, sent=0.002), sample(error="boom")]
    first = figures.text(progress(samples, errors=1, in_flight=3))
    assert first.splitlines() == [
        "15 tokens/s, 3 in flight, 1 failed, sent late 2.0 ms (p99)",
        "p50/p99 ms: first token 100/100, between tokens 50/50, last token 200/200",
    ]
    samples += [sample(0.4, 0.45, 0.5)] * 9
    assert figures.text(progress(samples)) == first, "not more often than four times a second"
    clock[0] += TEXT_EVERY_S
    assert "first token 4" in figures.text(progress(samples))
    assert "67 tokens/s" in figures.text(progress(samples)), "each sample is read once"
