"""Scores and their comparisons, from results in lm-eval's form; and the section of a model card."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nemotron_deploy.api.evaluate import EvaluateResult
from nemotron_deploy.evaluation.card import with_evaluations
from nemotron_deploy.evaluation.published import PUBLISHED, Settings, family_name
from nemotron_deploy.evaluation.report import EvaluationReport, Reference, Score, scores
from nemotron_deploy.views.evaluate import evaluation

PLAIN = Settings(0, 0.0, thinking=False)


def results(**tasks: Sequence[float]) -> dict[str, Any]:
    """What lm-eval gives for tasks with these points, and a group of all of them."""
    means = {task: sum(points) / len(points) for task, points in tasks.items()}
    every = [point for points in tasks.values() for point in points]
    return {
        "results": {
            name: {"alias": name, "sample_len": len(tasks[name]), "acc,none": mean,
                   "acc_stderr,none": "N/A"}
            for name, mean in means.items()
        },
        "groups": {"all": {"alias": "all", "acc,none": sum(every) / len(every)}},
        "group_subtasks": {"all": list(tasks)},
        "samples": {
            task: [{"filter": "none", "acc": point} for point in points]
            for task, points in tasks.items()
        },
    }  # fmt: skip


def one(task: str, given: dict[str, Any], *references: Reference, **more: Any) -> Score:
    (score,) = scores(task, given, PLAIN, more.get("cut", {}), references, more.get("limit"))
    return score


def reference(value: float, answers: int = 400, **more: Any) -> Reference:
    return Reference(
        "all", "acc,none", "theirs", value, answers, "a table", **{"settings": PLAIN} | more
    )


def test_a_group_is_the_mean_of_its_questions() -> None:
    score = one("all", results(a=[1, 0, 1, 1], b=[0, 1]), cut={"a": 2, "b": 1, "other": 9})
    assert score.value == pytest.approx(4 / 6)
    assert (score.questions, score.cut) == (6, 3)
    assert score.interval is not None
    assert score.interval.low < 4 / 6 < score.interval.high


def test_what_is_no_mean_of_questions_has_no_interval() -> None:
    given = results(a=[1, 0, 1, 1], b=[0, 1])
    given["groups"]["all"]["acc,none"] = 0.625  # of the tasks, not of the questions
    score = one("all", given, reference(0.9))
    assert score.interval is None
    assert score.comparisons[0].verdict == "not comparable"
    perplexity = results(a=[12.5, 30.0])
    assert one("a", perplexity).interval is None


def test_questions_of_another_length_do_not_count() -> None:
    """RULER's metrics are lengths, and a question has -1 in those of others."""
    given = results(a=[1, 0, 1])
    given["results"]["a"] = {"4096,none": 0.5, "8192,none": 1.0, "16384,none": -1}
    rows = [{"4096": 1.0, "8192": -1}, {"4096": 0.0, "8192": -1}, {"4096": -1, "8192": 1.0}]
    given["samples"]["a"] = [{"filter": "none", "16384": -1} | row for row in rows]
    found = {score.metric: score for score in scores("a", given, PLAIN, {}, (), None)}
    assert {name: score.questions for name, score in found.items()} == {
        "4096,none": 2,
        "8192,none": 1,
    }
    assert all(score.interval for score in found.values())


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.9, "lower"), (0.72, "within noise"), (0.5, "higher")]
)
def test_whether_a_difference_is_more_than_noise(value: float, verdict: str) -> None:
    given = results(a=[1] * 280 + [0] * 120)
    (comparison,) = one("all", given, reference(value)).comparisons
    assert comparison.verdict == verdict
    assert comparison.difference == pytest.approx(0.7 - value)


def test_few_answers_make_much_noise() -> None:
    given = results(a=[1] * 280 + [0] * 120)
    (comparison,) = one("all", given, reference(0.9, answers=10)).comparisons
    assert comparison.verdict == "within noise"


@pytest.mark.parametrize(
    ("settings", "caveat"),
    [
        (Settings(5), "num_fewshot 0 instead of 5"),
        (Settings(0, 0.99999), "temperature 0 instead of 0.99999"),
        (Settings(thinking=True), "thinking off instead of on"),
    ],
)
def test_other_settings_are_not_compared(settings: Settings, caveat: str) -> None:
    given = results(a=[1, 0])
    (comparison,) = one("all", given, reference(0.9, settings=settings)).comparisons
    assert comparison.verdict == "not comparable"
    assert caveat in comparison.caveats


def test_another_way_of_measuring_is_said_and_compared() -> None:
    given = results(a=[1] * 30)
    (comparison,) = one("all", given, reference(0.2, differs="asked otherwise")).comparisons
    assert (comparison.verdict, comparison.caveats) == ("higher", ("asked otherwise",))


def test_published_scores_are_shares_with_a_source() -> None:
    rows = {(row.model, row.format, row.task, row.metric) for row in PUBLISHED}
    assert len(rows) == len(PUBLISHED)
    assert all(0 < row.value < 1 and row.answers >= 128 and row.source for row in PUBLISHED)


@pytest.mark.parametrize(
    "served",
    [
        "nemotron-3-nano-30b-a3b",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8",
    ],
)
def test_the_family_of_a_served_model(served: str) -> None:
    assert family_name(served) == "nemotron-3-nano-30b-a3b"
    assert any(row.model == family_name(served) for row in PUBLISHED)


def report(*found: Score) -> EvaluationReport:
    return EvaluationReport(
        "tiny", "tiny-h100-int4", "0" * 64, "lm-eval 0.4.13", "chat", None,
        "2026-11-28T03:00:00Z", 12.5, 40, found,
    )  # fmt: skip


def test_the_view_fits_a_narrow_terminal_and_says_what_is_doubtful() -> None:
    given = results(a=[1] * 280 + [0] * 120)
    score = one("all", given, reference(0.9, differs="asked otherwise"), cut={"a": 7})
    console = Console(file=io.StringIO(), width=80)
    evaluation(console, EvaluateResult(report(score), Path("report/evaluation-1.json")))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    flat = " ".join(text.split())
    for words in (
        "70.00 %", "65.34 to 74.28", "90.00 %", "-20.00, lower", "asked otherwise",
        "7 answers ended at their limit of tokens", "40 answers were kept", "Wilson",
        "saved to report/evaluation-1.json",
    ):  # fmt: skip
        assert words in flat, words


def test_a_card_shows_the_newest_score_of_each_task() -> None:
    given = results(a=[1, 0, 1, 1], b=[0, 1])
    old = report(one("a", given), one("all", given, reference(0.9))).to_json()
    new = report(one("a", results(a=[1] * 8))).to_json()
    reports = json.loads(json.dumps([old, new]))
    card = with_evaluations("# Name\n\nText.\n", reports)
    assert card.startswith("# Name\n\nText.\n")
    assert "| a | acc, none | 100.00 % | 67.56 to 100.00 | 8 |" in card
    assert "75.00 %" not in card
    assert "90.00 % (theirs; a table)" in card
    assert with_evaluations(card, reports) == card, "a section takes the place of the one before"
    assert with_evaluations(card + "\nMore.\n", reports[1:]).endswith("\nMore.\n")
