from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from nemotron_deploy.api.loadtest import LoadTestResult
from nemotron_deploy.loadtest import Level, LoadTest, LoadTestReport, Run, metrics, slo
from nemotron_deploy.loadtest.comparison import compare
from nemotron_deploy.tests.loadtest.samples import STARTED, sample
from nemotron_deploy.views.loadtest import comparison, load_report

SLOS = slo.parse_all("ttft_p99<500ms,errors<1%")


def run(level: Level, *, failed: int, sent: float = 0.0) -> Run:
    samples = [sample(0.4, 0.425, 12.5, sent=sent, asked=9)] * 40
    samples += [sample(error="out of [blocks]")] * failed
    return metrics.summarise(level, samples, 30.0, test=LoadTest(prompts=["x"], slos=SLOS))


def report(*runs: Run, allow_late: bool = False) -> LoadTestReport:
    return LoadTestReport(
        model="mock", url="grpc://localhost:8001", max_tokens=9, token_counting="responses",
        duration_s=61.0, seed=7, **STARTED, runs=runs, slos=SLOS, allow_late=allow_late,
    )  # fmt: skip


def shown(found: LoadTestReport) -> str:
    console = Console(file=io.StringIO(), width=80)
    load_report(console, LoadTestResult(found, None))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_all_figures_fit_a_narrow_terminal() -> None:
    text = shown(report(run(Level(44, concurrency=128), failed=0)))
    assert "…" not in text
    assert "400/400/~400" in text, "p99 of 40 requests"
    assert "12s/12s/~12s" in text


def test_everything_doubtful_is_said() -> None:
    text = " ".join(shown(report(run(Level(44, rate=2.5), failed=4, sent=0.1))).split())
    for words in (
        "each response counted as one token",
        "INVALID, the client disturbed the figures",
        "100% of the outputs are shorter than asked for",
        "4 failed, server error: the first after 9.0 s, the last after 9.0 s",
        "4 x out of [blocks]",
        "missed, failures decide (400 without failed requests), too few requests to be sure",
        "failed: no load meets ttft_p99<500ms, errors<1%",
        "9.1 % of the requests failed, more than --max-errors 1",
    ):
        assert words in text, words


def test_figures_of_aiperf_fit_a_narrow_terminal() -> None:
    samples = [sample(0.4, 0.425, 12.5)] * 9
    test = LoadTest(prompts=["x"], definitions="aiperf", slos=SLOS)
    text = shown(report(metrics.summarise(Level(9, concurrency=8), samples, 30.0, test=test)))
    assert "AIPerf's definitions  concurrency 8" in text
    assert "…" not in text
    (line,) = [line for line in text.splitlines() if "request_latency" in line]
    assert line.split()[2] == "12,500.00"


def test_a_comparison_says_what_is_noise(tmp_path: Path) -> None:
    level = Level(40, concurrency=1)
    for name, failed in (("a", 0), ("b", 60)):
        document = report(run(level, failed=failed)).to_json()
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    console = Console(file=io.StringIO(), width=120)
    comparison(console, compare(tmp_path / "a.json", tmp_path / "b.json"))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    (errors,) = [line for line in lines if "errors_percent" in line]
    assert "worse" in errors
    (first,) = [line for line in lines if "ttft_ms p50" in line]
    assert "noise" in first
    (far,) = [line for line in lines if "ttft_ms p99" in line]
    assert "too few requests to say" in far
