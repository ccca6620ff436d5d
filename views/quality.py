"""View of `quantize --compare`: what quantization costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .parts import amount, heading, show

if TYPE_CHECKING:
    from ..quantize.quality import QualityReport


def comparison(console: Console, report: QualityReport, out: Path | None) -> None:
    """The source and every format, one row each."""
    show(console, heading("Compared", report.model), quality_table(report))
    if report.missing:
        console.print(f" [yellow]{escape(report.missing)}[/]")
    if text := report.heldout:
        console.print(f" [dim]{text.tokens:,} tokens of text; {escape(text.source)}[/]")
    for row in report.formats:
        if row.calibration:
            console.print(
                f" [dim]{escape(row.key)} calibrated on {escape(row.calibration.source)}[/]"
            )
            if thin := row.calibration.thin:
                console.print(f" [yellow]{escape(row.key)}, thin: {escape(thin)}[/]")
    if out:
        console.print(f" [dim]saved to {escape(str(out))}[/]\n", soft_wrap=True)


def quality_table(report: QualityReport) -> Table:
    """Size, weight error, and what a format changes in the outputs."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("format", "size", "weight error", "perplexity", "KL, nats", "same top token"):
        table.add_column(name, justify="left" if name == "format" else "right")
    source = report.source
    table.add_row("source", amount(source.bytes), "", _number(source.perplexity), "", "")
    for row in report.formats:
        measured, error = row.fidelity, row.weight_error.mean
        table.add_row(
            Text(row.key, style="bold"),
            amount(row.bytes),
            "-" if error is None else f"{error:.2%}",
            _number(measured.perplexity if measured else None),
            f"{measured.kl:.2e}" if measured else "-",
            f"{measured.top1:.2%}" if measured else "-",
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
