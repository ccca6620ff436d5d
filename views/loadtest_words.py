"""Words and numbers that the views of load tests share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..loadtest.documents import RunDocument, SummaryDocument
from ..loadtest.statistics import carried
from ..loadtest.until import Width

COUNTED_BY: Final = {
    "server": "tokens as the server counted them",
    "tokenizer": "tokens counted with the model's tokenizer, for the server gives no counts",
    "responses": "each response counted as one token, for the server gives no counts and there is "
    "no tokenizer: a response may hold several",
}
"""What `token_counting` means."""


def load_text(run: RunDocument, short: bool = False) -> str:
    """The load of a run: `concurrency 4` or `2.5 req/s`; `short` is for labels in charts."""
    if "rate" in run:
        return f"{run['rate']:.4g}{'/s' if short else ' req/s'}"
    clients = run.get("concurrency", 0)
    return str(clients) if short else f"concurrency {clients}"


def by_load(runs: Sequence[RunDocument]) -> list[RunDocument]:
    """The last run of each load, in the order of the loads."""
    last = {(run.get("concurrency"), run.get("rate")): run for run in runs}
    return sorted(last.values(), key=lambda run: run.get("rate", run.get("concurrency", 0)))


def invalid_text(run: RunDocument) -> str:
    """Why a run is invalid."""
    return f"{load_text(run)}: {'; '.join(run['invalid_because'])}"


def width_text(width: Width) -> str:
    """How narrow an interval became."""
    reached = "reached" if width.reached else "NOT reached"
    if width.percent is None or width.interval is None:
        return f"--until {width.rule}: {reached}, {width.requests} requests give no interval"
    low, high = (number(end) for end in width.interval)
    return (
        f"--until {width.rule}: {reached}, {low} to {high} ms is {width.percent:.3g} % wide "
        f"({width.requests} requests, confidence {width.confidence:.2%} after {width.looks} looks)"
    )


def short_ms(summary: SummaryDocument, statistic: str) -> str:
    """A percentile in ms with `~` where the number of values cannot carry it, `-` where there is
    none."""
    value = dict(summary)[statistic]
    if not isinstance(value, (int, float)):
        return "-"
    sure = carried(statistic, summary["samples"], summary["intervals"])
    return ("" if sure else "~") + number(value)


def number(value: float) -> str:
    """Two digits at least: 4.9, 29, 150, and 12s for 12 seconds of milliseconds."""
    if value >= 10_000:
        return f"{value / 1000:.0f}s"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
