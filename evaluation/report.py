"""The report of an evaluation: scores with their intervals, compared with published ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Final

from ..core.errors import BadInputError
from ..core.result import Result
from .intervals import METHOD, Interval, difference, wilson
from .published import Published, Settings

_NOT_OF_THIS_LENGTH: Final = -1
"""What lm-eval's RULER writes for questions of another length than its metric's."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A score of others for the same task and metric, and how ours differs.

    Attributes:
        of: What was measured, such as `nemotron-3-nano-30b-a3b bf16`.
        value: Its score, a share of 1.
        source: Where the score is from.
        difference: Our score minus this one.
        interval: Confidence interval of the difference; null where there is none.
        verdict: `lower` or `higher` if the difference is more than noise, `within noise`, or
            `not comparable`.
        caveats: How the two measurements differ, in words.
    """

    of: str
    value: float
    source: str
    difference: float
    interval: Interval | None
    verdict: str
    caveats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """A score of one task.

    Attributes:
        task: The task, or the group of tasks that it is the mean of.
        metric: lm-eval's metric and filter, with a comma between.
        value: The score.
        interval: Its confidence interval; null for what is no mean of scores from 0 to 1.
        questions: Questions that it is the mean of.
        cut: Answers that ended at their limit of tokens.
        settings: What the task was run with.
        comparisons: Scores of others.
    """

    task: str
    metric: str
    value: float
    interval: Interval | None
    questions: int
    cut: int
    settings: Settings
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True, slots=True)
class EvaluationReport(Result):
    """What an evaluation measured.

    Attributes:
        model: The served model's name.
        target: The address of the server, or the bundle's name.
        bundle: The digest of what the bundle is made from; null for a server.
        harness: The program that asked and scored, with its version.
        protocol: `chat` or `completions`.
        limit: Only so many questions of each task were asked; null for all.
        date: When it ended, in UTC.
        duration_s: How long it took, in seconds, without interrupted runs before it.
        resumed: Answers that interrupted runs had kept.
        confidence: What the intervals are.
        scores: Every metric of every task.
    """

    SCHEMA: ClassVar[int] = 1

    model: str
    target: str
    bundle: str | None
    harness: str
    protocol: str
    limit: int | None
    date: str
    duration_s: float
    resumed: int
    scores: tuple[Score, ...]
    confidence: str = METHOD


@dataclass(frozen=True, slots=True)
class Reference:
    """A score to compare with, the mean of `answers` answers."""

    task: str
    metric: str
    of: str
    value: float
    answers: int
    source: str
    settings: Settings
    differs: str = ""

    @classmethod
    def of_published(cls, row: Published) -> Reference:
        """A published score."""
        return cls(
            row.task, row.metric, f"{row.model} {row.format}", row.value, row.answers, row.source,
            row.settings, row.differs,
        )  # fmt: skip


def read_references(document: Mapping[str, Any], name: str) -> list[Reference]:
    """The scores in the JSON document of another report, in the file `name`.

    Raises `BadInputError` for a document that is none, or of a part of the questions.
    """
    if document.get("schema") != EvaluationReport.SCHEMA or "scores" not in document:
        raise BadInputError(f"{name}: is no report of nemo-deploy evaluate that this version reads")
    if document["limit"] is not None:
        raise BadInputError(
            f"{name}: is of the first {document['limit']} questions of each task only (--limit), "
            "which nothing is compared with"
        )
    return [
        Reference(
            row["task"], row["metric"], str(document["target"]), row["value"], row["questions"],
            name, Settings(**row["settings"]),
        )
        for row in document["scores"]
    ]  # fmt: skip


def scores(
    task: str,
    results: Mapping[str, Any],
    settings: Settings,
    cut: Mapping[str, int],
    references: Sequence[Reference],
    limit: int | None,
) -> Iterator[Score]:
    """Every metric of `task`, the name of a task or a group, in what lm-eval gives.

    Args:
        task: Its name.
        results: What lm-eval gives.
        settings: What the task was run with.
        cut: Answers of each single task that ended at their limit of tokens.
        references: Scores to compare with, of this and other tasks.
        limit: Only so many questions of each task were asked.
    """
    leaves = _leaves(task, results)
    values = {**results["results"].get(task, {}), **results.get("groups", {}).get(task, {})}
    for metric, value in values.items():
        points = _points(leaves, metric, results["samples"]) if _is_score(metric, value) else []
        if not points:
            continue
        score = Score(
            task,
            metric,
            value,
            wilson(value, len(points)) if _is_mean(value, points) else None,
            len(points),
            sum(cut.get(leaf, 0) for leaf in leaves),
            settings,
        )
        same = [row for row in references if (row.task, row.metric) == (task, metric)]
        yield replace(score, comparisons=tuple(_compared(score, row, limit) for row in same))


def _compared(score: Score, reference: Reference, limit: int | None) -> Comparison:
    changed = _changed(score.settings, reference.settings)
    caveats = [*([reference.differs] if reference.differs else []), *changed]
    if limit is not None:
        caveats.append(f"only the first {limit} questions of each task")
    interval = None
    if score.interval is not None:
        interval = difference(score.value, score.questions, reference.value, reference.answers)
    if interval is None or limit is not None or changed:
        verdict = "not comparable"
    elif interval.low <= 0 <= interval.high:
        verdict = "within noise"
    else:
        verdict = "lower" if interval.high < 0 else "higher"
    return Comparison(
        reference.of,
        reference.value,
        reference.source,
        score.value - reference.value,
        interval,
        verdict,
        tuple(caveats),
    )


def _changed(ours: Settings, theirs: Settings) -> list[str]:
    """The settings that differ, in words. What `theirs` does not say is not compared, except that a
    model that reasons without a limit must not have one here."""
    named = asdict(ours)
    changed = {
        name: value
        for name, value in asdict(theirs).items()
        if value is not None and value != named[name]
    }
    if theirs.thinking and theirs.max_tokens is None and ours.max_tokens is not None:
        changed["max_tokens"] = None
    return [
        f"{name} {_shown(named[name])} instead of {_shown(value)}"
        for name, value in changed.items()
    ]


def _shown(value: float | None) -> str:
    if value is None:
        return "unlimited"
    return ("off", "on")[value] if isinstance(value, bool) else f"{value:g}"


def _is_mean(value: float, points: Sequence[Any]) -> bool:
    """Whether the score is the plain mean of numbers from 0 to 1."""
    numbers = [point for point in points if isinstance(point, (int, float)) and 0 <= point <= 1]
    if len(numbers) != len(points):
        return False
    return math.isclose(math.fsum(numbers) / len(numbers), value, abs_tol=1e-9)


def _is_score(metric: str, value: object) -> bool:
    return (
        "," in metric
        and "_stderr," not in metric
        and isinstance(value, (int, float))
        and value != _NOT_OF_THIS_LENGTH
    )


def _leaves(task: str, results: Mapping[str, Any]) -> list[str]:
    """The single tasks in a group, or the task itself."""
    members = results.get("group_subtasks", {}).get(task) or ()
    if not members:
        return [task]
    return [leaf for member in members for leaf in _leaves(member, results)]


def _points(leaves: Sequence[str], metric: str, samples: Mapping[str, Any]) -> list[Any]:
    """The score of each question."""
    name, _, filtered = metric.partition(",")
    return [
        sample[name]
        for leaf in leaves
        for sample in samples.get(leaf, ())
        if sample["filter"] == filtered and sample.get(name, -1) != _NOT_OF_THIS_LENGTH
    ]
