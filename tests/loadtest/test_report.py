from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.loadtest import Level, LoadTest, LoadTestReport, Run, metrics, slo
from nemotron_deploy.loadtest.documents import RunDocument
from nemotron_deploy.loadtest.metrics import METRICS
from nemotron_deploy.loadtest.saved_report import read_report
from nemotron_deploy.loadtest.statistics import STATISTICS
from nemotron_deploy.tests.loadtest.samples import STARTED, sample

FAST = slo.parse("ttft_p99<500ms")


def run(
    level: Level, ttft_s: float, *, complete: bool = True, failed: int = 0, sent: float = 0.0
) -> Run:
    samples = [sample(ttft_s, ttft_s + 0.01, ended=ttft_s + 0.02, sent=sent)] * 99
    samples += [sample(error="boom")] * failed
    test = LoadTest(prompts=["x"], slos=(FAST,))
    return metrics.summarise(level, samples, duration_s=1.0, test=test, complete=complete)


def report(
    *runs: Run, slos: tuple[slo.Slo, ...] = (FAST,), aborted: str | None = None, **fields: Any
) -> LoadTestReport:
    return LoadTestReport(
        model="mock",
        url="grpc://localhost:8001",
        max_tokens=8,
        token_counting="responses",
        duration_s=3.0,
        seed=7,
        **STARTED,
        runs=runs,
        slos=slos,
        aborted=aborted,
        **fields,
    )


def test_the_best_run_is_the_highest_load_that_meets_every_objective() -> None:
    found = report(
        run(Level(1, concurrency=1), 0.1),
        run(Level(1, concurrency=4), 0.4),
        run(Level(1, concurrency=8), 0.6),
    )
    assert found.met
    assert found.ok
    document = found.to_json()["slo"]
    assert (document["objectives"], document["met"], document["best"]) == (
        ["ttft_p99<500ms"], True, 4,
    )  # fmt: skip
    assert [level["load"] for level in document["levels"]] == [1, 4, 8]
    (judged,) = document["levels"][2]["results"]
    assert judged == {
        "objective": "ttft_p99<500ms", "value": pytest.approx(600), "met": False,
        "survivors": pytest.approx(600), "carried": False,
    }  # fmt: skip


def test_a_missed_objective_and_a_dead_server_are_not_ok() -> None:
    missed = report(run(Level(1, concurrency=1), 0.6))
    assert missed.to_json()["slo"]["met"] is False
    assert missed.to_json()["slo"]["best"] is None
    assert not missed.ok
    died = report(run(Level(1, concurrency=1), 0.1, complete=False), aborted="it died")
    assert died.met is False
    assert not died.ok


def test_without_objectives_there_is_nothing_to_meet() -> None:
    found = report(run(Level(1, concurrency=1), 9.0), slos=())
    assert found.met is None
    assert found.ok


def test_the_document_has_the_promised_keys_and_is_json() -> None:
    found = report(run(Level(1, rate=2.0), 0.1)).to_json()
    assert json.loads(json.dumps(found)) == found
    (first,) = found["runs"]
    assert first["rate"] == 2.0
    assert "concurrency" not in first
    promised = {"requests", "errors", "ttft_ms", "itl_ms", "e2e_ms", "output_tokens_per_s"}
    assert promised | {"requests_per_s", "goodput"} <= first.keys()
    for latency in METRICS:
        assert first[f"{latency}_ms"].keys() == {*STATISTICS, "samples", "intervals"}
    assert first["valid"] is True
    assert set(get_type_hints(RunDocument)) == first.keys() | {"concurrency"}


def test_a_saved_report_is_read_and_a_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    document = report(run(Level(1, concurrency=1), 0.1)).to_json()
    assert document["made_by"].startswith("nemo-deploy ")
    path.write_text(json.dumps(document))
    assert read_report(path) == document
    del document["schema"], document["made_by"]  # as they were before reports said so
    path.write_text(json.dumps(document))
    read = read_report(path)
    assert read["schema"] == 3
    assert read["runs"][0]["stream_ms"] == document["runs"][0]["e2e_ms"], "what it was"
    path.write_text(json.dumps({"schema": 4, "made_by": "nemo-deploy 8.0"}))
    with pytest.raises(BadInputError, match=r"report\.json: made by nemo-deploy 8\.0; upgrade"):
        read_report(path)


@pytest.mark.parametrize("text", ["", "[]", "[" * 1000, '{"schema": "one"}', '{"runs": [1]}'])
def test_a_file_that_is_no_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(BadInputError, match=r"report\.json"):
        read_report(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("failed", "most", "ok"), [(0, 1.0, True), (2, 1.0, False), (2, 5.0, True)]
)
def test_more_errors_than_allowed_fail_a_run(failed: int, most: float, ok: bool) -> None:
    found = report(run(Level(1, concurrency=1), 0.1, failed=failed), slos=(), max_errors=most)
    assert found.ok is ok
    assert any("--max-errors" in problem for problem in found.problems) is not ok


def test_a_load_with_too_many_errors_is_never_the_best() -> None:
    throughput = slo.parse("requests_per_s>1")
    found = report(run(Level(1, concurrency=1), 0.1, failed=50), slos=(throughput,))
    assert found.met is False


def test_a_run_that_the_client_disturbed_is_not_ok_unless_allowed() -> None:
    late = run(Level(1, concurrency=1), 0.1, sent=0.05)
    assert not report(late).ok
    assert "requests were sent late" in report(late).problems[0]
    assert report(late).to_json()["runs"][0]["valid"] is False
    assert report(late, allow_late=True).ok
