"""The section of a model card that shows what evaluations of a bundle measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from .intervals import METHOD

_BEGIN: Final = "<!-- nemo-deploy evaluation: this section is written anew by each evaluation -->"
_END: Final = "<!-- end of nemo-deploy evaluation -->"


def with_evaluations(card: str, reports: Sequence[Mapping[str, Any]]) -> str:
    """`card` with a section on `reports`, JSON documents in the order of their dates.

    The section takes the place of an earlier one, or else comes last.
    """
    before, begin, rest = card.partition(_BEGIN)
    after = rest.partition(_END)[2] if begin else ""
    parts = [before.rstrip("\n"), "", _BEGIN, *_section(reports), _END]
    return "\n".join(parts) + (after or "\n")


def _section(reports: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    newest: dict[tuple[str, str], tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    for report in reports:
        for score in report["scores"]:
            newest[score["task"], score["metric"]] = (report, score)
    yield "## Evaluation"
    yield ""
    yield "| task | metric | score | 95 % interval | questions | published | difference |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for _, score in newest.values():
        for number, row in enumerate(score["comparisons"] or [None]):
            name, metric, value, interval, asked = (
                score["task"], score["metric"].replace(",", ", "), percent(score["value"]),
                interval_text(score["interval"]), f"{score['questions']:,}",
            ) if not number else ("",) * 5  # fmt: skip
            other = f"{percent(row['value'])} ({row['of']}; {row['source']})" if row else ""
            cells = (name, metric, value, interval, asked, other, _verdict(row))
            yield f"| {' | '.join(cells)} |"
    made = sorted({report["harness"] for report, _ in newest.values()})
    yield ""
    yield f"Measured by nemo-deploy evaluate with {', '.join(made)}. {METHOD}"


def percent(value: float) -> str:
    """A share of 1 in percent; another number as it is."""
    return f"{100 * value:.2f} %" if 0 <= value <= 1 else f"{value:.4g}"


def interval_text(interval: Mapping[str, float] | None, sign: str = "") -> str:
    """An interval in percent, or a dash."""
    if interval is None:
        return "-"
    return f"{100 * interval['low']:{sign}.2f} to {100 * interval['high']:{sign}.2f}"


def _verdict(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    caveats = f" ({'; '.join(row['caveats'])})" if row["caveats"] else ""
    return f"{100 * row['difference']:+.2f}, {row['verdict']}{caveats}"
