"""View of `evaluate`: scores, and how they compare with published ones."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..evaluation.card import interval_text, percent
from .parts import heading, show

if TYPE_CHECKING:
    from ..api.evaluate import EvaluateResult
    from ..evaluation.intervals import Interval
    from ..evaluation.report import Comparison, EvaluationReport, Score

_STYLES: Final = {"lower": "bold red", "higher": "green", "within noise": "green"}


def evaluation(console: Console, result: EvaluateResult) -> None:
    """A row for each score, and another for each further score that it is compared with."""
    report = result.report
    show(console, heading("Evaluated", f"{report.target}, {report.harness}"), _table(report))
    for note in _notes(report):
        console.print(f" [yellow]{escape(note)}[/]")
    console.print(f" [dim]{escape(report.confidence)}[/]")
    if report.resumed:
        console.print(f" [dim]{report.resumed:,} answers were kept from an interrupted run[/]")
    if result.kept:
        console.print(f" [dim]saved to {escape(str(result.kept))}[/]", soft_wrap=True)
    console.print()


def _table(report: EvaluationReport) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("task")
    table.add_column("score", justify="right")
    table.add_column("questions", justify="right")
    table.add_column("compared with")
    table.add_column("difference")
    for score in report.scores:
        rows: list[Comparison | None] = list(score.comparisons) or [None]
        for number, row in enumerate(rows):
            own = ["", "", ""] if number else _score(score)
            table.add_row(*own, *_comparison(row))
    return table


def _score(score: Score) -> list[Text | str]:
    name = Text.assemble((score.task, "bold"), (f"\n{score.metric.replace(',', ', ')}", "dim"))
    value = f"{percent(score.value)}\n{_bounds(score.interval)}"
    return [name, value, f"{score.questions:,}"]


def _comparison(row: Comparison | None) -> list[Text | str]:
    if row is None:
        return ["nothing published", ""]
    verdict = Text.assemble(
        f"{100 * row.difference:+.2f}, ",
        (row.verdict, _STYLES.get(row.verdict, "yellow")),
        f"\n{_bounds(row.interval, '+')}",
    )
    return [f"{percent(row.value)}\n{row.of}", verdict]


def _bounds(interval: Interval | None, sign: str = "") -> str:
    return interval_text(asdict(interval) if interval else None, sign)


def _notes(report: EvaluationReport) -> list[str]:
    """What a reader must know of the scores, each note once."""
    notes: dict[str, None] = {}
    if report.limit is not None:
        notes[
            f"--limit {report.limit}: only the first questions of each task were asked; the scores "
            "are comparable with nothing"
        ] = None
    for score in report.scores:
        if score.cut:
            notes[
                f"{score.task}: {score.cut:,} answers ended at their limit of tokens (--max-tokens)"
            ] = None
        for row in score.comparisons:
            notes[f"{row.of}: {row.source}"] = None
            for caveat in row.caveats:
                notes[f"{score.task}, {row.of}: {caveat}"] = None
    return list(notes)
