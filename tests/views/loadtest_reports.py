"""A load test made by hand, for the views."""

from __future__ import annotations

from array import array
from typing import Any

from nemotron_deploy.loadtest import Level, LoadTest, LoadTestReport, Run, metrics, slo
from nemotron_deploy.loadtest.documents import LoadTestDocument
from nemotron_deploy.loadtest.observers.sampler import Observed, ObservedSeries
from nemotron_deploy.loadtest.saved_report import typed
from nemotron_deploy.runtime import contract
from nemotron_deploy.tests.loadtest.samples import STARTED, sample

SLOS = slo.parse_all("ttft_p50<500ms,errors<1%")


def run(level: Level, *, failed: int = 0, late_after: float | None = None, **test: Any) -> Run:
    """Forty requests, one each half second, with a first token after 400 ms and two more; those due
    after `late_after` are sent 300 ms late. The failed ones end after 9 seconds."""
    samples = []
    for number in range(40):
        due = number / 2
        late = late_after is not None and due > late_after
        samples.append(
            sample(
                0.4, 0.425, 0.45, due=due, sent=0.3 if late else 0.0, asked=3,
                waits=array("d", [0.0] * 3),
            )
        )  # fmt: skip
    samples += [sample(error='<script>alert("x")</script>')] * failed
    return metrics.summarise(level, samples, 20.5, test=LoadTest(prompts=["x"], slos=SLOS, **test))


def observed() -> Observed:
    """Two metrics, one with a label, and a page that went away."""
    return Observed(
        (
            ObservedSeries(
                "http://gpu:9400/metrics", "DCGM_FI_DEV_GPU_UTIL", {"gpu": "<0>"}, "%",
                90.0, 80.0, 96.0, ((1.0, 80.0), (2.0, 96.0)),
            ),
            ObservedSeries(
                "http://gpu:9400/metrics", contract.RUNNING.name, {}, "requests", 3.0, 2.0, 4.0,
                ((1.0, 2.0), (2.0, 4.0)),
            ),
        ),
        ("http://gpu:9400/metrics: did not answer 2 times, first after 5 s: refused",),
    )  # fmt: skip


def report(*runs: Run, **fields: Any) -> LoadTestReport:
    defaults = {
        "model": "mock", "url": "grpc://localhost:8001", "max_tokens": 3,
        "token_counting": "responses", "duration_s": 61.0, "seed": 7, "slos": SLOS, **STARTED,
    }  # fmt: skip
    return LoadTestReport(runs=runs, **{**defaults, **fields})


def document(*runs: Run, **fields: Any) -> LoadTestDocument:
    return typed(report(*runs, **fields).to_json())
