"""Load tests as CSV and in Prometheus' format."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nemotron_deploy.loadtest import Level
from nemotron_deploy.loadtest.metrics import METRICS
from nemotron_deploy.loadtest.statistics import STATISTICS
from nemotron_deploy.tests.views.loadtest_reports import document, run
from nemotron_deploy.views.loadtest_tables import csv_text, prometheus_text

GOLDEN = Path(__file__).parent / "golden" / "loadtest.prom"
ONE, FAST = Level(44, concurrency=1), Level(44, rate=2.5)


def test_a_spreadsheet_gets_a_row_for_each_level() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(document(run(ONE), run(FAST, failed=4))))))
    assert [(row["concurrency"], row["rate"]) for row in rows] == [("1", ""), ("", "2.5")]
    assert [row["errors"] for row in rows] == ["0", "4"]
    assert rows[1]["errors_by_kind"] == "server error 4"
    assert float(rows[0]["ttft_p50_ms"]) == pytest.approx(400)
    assert rows[0]["queue_p50_ms"] == ""
    for metric in METRICS:
        assert all(f"{metric}_{statistic}_ms" in rows[0] for statistic in STATISTICS)


def test_foreign_text_is_no_formula() -> None:
    text = csv_text(document(run(ONE), model='=HYPERLINK("http://x")', url="+1"))
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["model"] == '\'=HYPERLINK("http://x")'
    assert row["url"] == "'+1"


def test_prometheus_text(golden: Callable[[Path, str], None]) -> None:
    golden(GOLDEN, prometheus_text(document(run(ONE), run(FAST, failed=4), model='a"b\\c\nd')))


def test_the_same_load_twice_is_one_series() -> None:
    text = prometheus_text(document(run(FAST, failed=4), run(FAST)))
    lines = [line.rpartition(" ")[0] for line in text.splitlines() if line[0] != "#"]
    assert len(lines) == len(set(lines))
    assert 'failed_requests{model="mock",kind="rate",load="2.5"} 0' in text


def test_figures_of_aiperf_are_labelled() -> None:
    levels = document(run(ONE, definitions="aiperf"), run(FAST))
    first, second = csv.DictReader(io.StringIO(csv_text(levels)))
    assert float(first["aiperf_time_to_first_token_p50"]) == pytest.approx(400)
    assert second["aiperf_time_to_first_token_p50"] == ""
    line = 'load="1",metric="request_latency",statistic="avg"} 450'
    assert line in prometheus_text(levels)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_reads_it() -> None:
    text = prometheus_text(document(run(ONE), run(FAST, failed=4)))
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
