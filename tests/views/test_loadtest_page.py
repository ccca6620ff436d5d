"""Pages of load tests: charts with captions, what is doubtful, foreign text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from html import unescape
from pathlib import Path

from nemotron_deploy.loadtest import Level
from nemotron_deploy.loadtest.saved_report import read_whole_report, typed
from nemotron_deploy.tests.core.test_html import checked
from nemotron_deploy.tests.views.loadtest_reports import document, observed, run
from nemotron_deploy.views.loadtest_page import load_test_page

DAY = date(2026, 11, 28)
ONE, FOUR = Level(44, concurrency=1), Level(44, concurrency=4)


def test_every_chart_has_its_caption() -> None:
    page = load_test_page(document(run(ONE), run(FOUR)), DAY)
    checked(page)
    assert page.count("<svg") == page.count("<figure>") == 8
    assert re.findall(r"<figcaption>(.*?)</figcaption>", page) == [
        "Time to first token, ms",
        "Time between tokens, ms",
        "Time to last token, ms",
        "Time to first token: share of values",
        "Time between tokens: share of values",
        "Time to last token: share of values",
        "Output tokens per second",
        "Time to first token by when a request was due, ms",
    ]


def test_foreign_text_is_escaped() -> None:
    hostile = '<img src=x onerror="alert(1)">'
    levels = document(run(ONE, failed=3), model=hostile, url=hostile, aborted=hostile)
    page = load_test_page(levels, DAY)
    text = checked(page)
    assert hostile in text
    assert '<script>alert("x")</script>' in text
    assert "<img" not in page


def test_what_is_doubtful_stands_out() -> None:
    quiet = load_test_page(document(run(ONE)), DAY)
    assert "requests failed" not in quiet
    assert "the client disturbed the figures" not in quiet
    page = load_test_page(document(run(ONE, failed=4, late_after=15.0)), DAY)
    text = checked(page)
    assert "44, 4 failed" in text
    assert "concurrency 1: requests were sent late" in text
    assert page.count("requests failed</li>") == page.count("disturbed the figures</li>") == 2
    assert "missed: 9.091 %" in text
    assert "met: 400 ms" in text


def test_a_part_that_the_client_disturbed_is_shaded() -> None:
    levels = document(run(ONE, late_after=19.4))
    (level,) = levels["runs"]
    assert level["timeline"] is not None
    assert [i for i, each in enumerate(level["timeline"].disturbed) if each] == [19]
    assert load_test_page(levels, DAY).count('fill-opacity="0.5"') == 2
    level["valid"] = True
    narrow = re.findall(r'width="([\d.]+)" height="176"', load_test_page(levels, DAY))
    level["valid"] = False
    wide = re.findall(r'width="([\d.]+)" height="176"', load_test_page(levels, DAY))
    assert 15 * float(narrow[0]) < float(wide[0]), "all of an invalid level"


def test_it_says_how_it_was_measured() -> None:
    text = checked(load_test_page(document(run(ONE)), DAY))
    for words in (
        "It began at 2026-11-28 02:30:00 UTC.",
        "each response counted as one token",
        "Seed 7 repeats the prompts and arrival times.",
        "A level fails when more than 1 % of its requests fail.",
        "Measured with nemo-deploy ",
    ):
        assert words in text, words


def test_a_phone_shows_every_cell_beside_its_name() -> None:
    page = load_test_page(document(run(ONE), run(FOUR)), DAY)
    assert page.count('data-label="between tokens, ms"') == 2
    assert 'name="viewport"' in page


def test_a_report_of_an_earlier_version_has_a_page_without_its_timeline(tmp_path: Path) -> None:
    levels = json.loads(json.dumps(document(run(FOUR)), default=lambda each: None))
    (old,) = levels["runs"]
    for key in ("timeline", "distributions_ms", "content_ms", "prompt_tokens", "client"):
        del old[key]
    for key in ("settings", "started_at", "problems", "made_by"):
        del levels[key]
    path = tmp_path / "old.json"
    path.write_text(json.dumps({**levels, "schema": 2}))
    page = load_test_page(typed(read_whole_report(path)), DAY)
    checked(page)
    assert page.count("<figure>") == 3
    assert "400 / ~400" in page


def test_a_test_without_levels_says_so() -> None:
    assert "No level was measured." in load_test_page(document(), DAY)


def test_figures_of_aiperf_are_labelled() -> None:
    text = checked(load_test_page(document(run(ONE, definitions="aiperf"), run(FOUR)), DAY))
    assert text.count("AIPerf's definitions, concurrency 1") == 1
    assert "AIPerf's definitions, concurrency 4" not in text
    assert "time_to_first_token, ms" in text


def test_metrics_of_the_server_stand_on_the_timeline() -> None:
    measured = replace(run(ONE), observed=observed())
    page = load_test_page(document(measured, run(FOUR)), DAY)
    text = checked(page)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions[-2:] == ["Requests in the server", "Utilization of GPUs, %"]
    assert "DCGM_FI_DEV_GPU_UTIL <0></li>" in unescape(page), "even a single curve has its name"
    assert "did not answer 2 times, first after 5 s: refused" in text
    assert 'data-label="mean"><span>90</span>' in page
