"""Views of what quantization costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .parts import amount, heading, show


def comparison(console: Console, report: dict[str, Any], out: Path | None) -> None:
    """One row a format beside the source."""
    show(console, heading("Compared", report["model"]), quality_table(report))
    if report["missing"]:
        console.print(f" [yellow]{escape(report['missing'])}[/]")
    if report["heldout"]:
        text = report["heldout"]
        console.print(f" [dim]{text['tokens']:,} tokens of text; {escape(text['source'])}[/]")
    if out:
        console.print(f" [dim]kept in {escape(str(out))}[/]\n", soft_wrap=True)


def quality_table(report: dict[str, Any]) -> Table:
    """Size, error of the weights, and what it does to answers."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("format", "size", "weight error", "perplexity", "KL, nats", "same top token"):
        table.add_column(name, justify="left" if name == "format" else "right")
    source = report["source"]
    table.add_row("source", amount(source["bytes"]), "", _number(source["perplexity"]), "", "")
    for row in report["formats"]:
        found = row["fidelity"] or {}
        error = row["weight_error"]["mean"]
        table.add_row(
            Text(row["key"], style="bold"),
            amount(row["bytes"]),
            "-" if error is None else f"{error:.2%}",
            _number(found.get("perplexity")),
            f"{found['kl']:.2e}" if found else "-",
            f"{found['top1']:.2%}" if found else "-",
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
