from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.loadtest import Level, LoadTestReport, Run, metrics, slo
from nemotron_deploy.loadtest.report import read_report
from nemotron_deploy.loadtest.sample import Sample

FAST = slo.parse("ttft_p99<500ms")


def run(level: Level, ttft_s: float, *, complete: bool = True) -> Run:
    samples = [Sample(array("d", [ttft_s, ttft_s + 0.01]), ended=ttft_s + 0.02)]
    return metrics.summarise(level, samples, duration_s=1.0, slos=(FAST,), complete=complete)


def report(
    *runs: Run, slos: tuple[slo.Slo, ...] = (FAST,), aborted: str | None = None
) -> LoadTestReport:
    return LoadTestReport(
        model="mock",
        url="grpc://localhost:8001",
        max_tokens=8,
        token_counting="responses",
        duration_s=3.0,
        runs=runs,
        slos=slos,
        aborted=aborted,
    )


def test_the_best_run_is_the_highest_load_that_meets_every_objective() -> None:
    found = report(
        run(Level(1, concurrency=1), 0.1),
        run(Level(1, concurrency=4), 0.4),
        run(Level(1, concurrency=8), 0.6),
    )
    assert found.met
    assert found.ok
    assert found.to_json()["slo"] == {"objectives": ["ttft_p99<500ms"], "met": True, "best": 4}


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
    for latency in ("ttft_ms", "itl_ms", "e2e_ms"):
        assert first[latency].keys() == {"p50", "p90", "p99", "samples"}


def test_a_saved_report_is_read_and_a_newer_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    document = report(run(Level(1, concurrency=1), 0.1)).to_json()
    assert document["made_by"].startswith("nemo-deploy ")
    path.write_text(json.dumps(document))
    assert read_report(path) == document
    del document["schema"], document["made_by"]  # as they were before reports said so
    path.write_text(json.dumps(document))
    assert read_report(path) == document | {"schema": 1}
    path.write_text(json.dumps({"schema": 2, "made_by": "nemo-deploy 8.0"}))
    with pytest.raises(BadInputError, match=r"report\.json: made by nemo-deploy 8\.0; upgrade"):
        read_report(path)


@pytest.mark.parametrize("text", ["", "[]", "[" * 1000, '{"schema": "one"}'])
def test_a_file_that_is_no_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(BadInputError, match=r"report\.json"):
        read_report(tmp_path / "report.json")
