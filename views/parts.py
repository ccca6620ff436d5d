"""Pieces that several views share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..model.spec import Concession

if TYPE_CHECKING:
    from ..build.planner.offers import Offer

COLOURS: Final = (
    "cyan", "magenta", "yellow", "green", "blue", "red", "bright_magenta", "bright_cyan",
    "bright_black",
)  # fmt: skip
GOOD: Final = Text("✓", style="green")
BAD: Final = Text("✗", style="bold red")


def amount(value: float, unit: str = "B") -> str:
    """`value` with a decimal prefix: 31.58 GB, 3.23 G."""
    for prefix in ("", "k", "M", "G"):
        if abs(value) < 1000:
            digits = 0 if not prefix else 2
            return f"{value:.{digits}f} {prefix}{unit}".rstrip()
        value /= 1000
    return f"{value:.2f} T{unit}"


def heading(text: str, note: str = "") -> Text:
    """A title line: what this is about, and a dim note behind it."""
    return Text.assemble((text, "bold"), ("  " + note if note else "", "dim"))


def facts(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Two columns: a dim name and its value. Texts are shown as they are, brackets included."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(Text(name), Text(value) if isinstance(value, str) else value)
    return table


def engine_rows(
    offers: Sequence[Offer], chosen: str, hint: str | None
) -> list[tuple[str, RenderableType]]:
    """Every engine in a row, with what it rests on, and the hint to another one."""
    rows: list[tuple[str, RenderableType]] = []
    for offer in offers:
        style = "bold" if offer.engine == chosen else ""
        text = Text.assemble((f"{offer.title} {offer.versions}", style), ": ", offer_text(offer))
        rows.append(("engines" if not rows else "", text))
    if hint:
        rows.append(("", Text(hint, style="yellow")))
    return rows


def offer_text(offer: Offer) -> str:
    """What an engine offers, in a clause."""
    if offer.status == "refused":
        return f"no (rule {offer.rule})"
    tested = "; ".join(offer.tested_on) or "not on such a GPU"
    return f"{offer.rests_on}; tested by us: {tested}; {offer.concurrency} sequences fit"


def concession_text(concession: Concession) -> str:
    """A setting that was given up for memory, and what that costs."""
    return f"{concession.setting} {concession.usual} → {concession.chosen}: {concession.cost}"


def stacked_bar(parts: Mapping[str, float], unit: str = "B", width: int = 60) -> RenderableType:
    """A horizontal bar of the parts' shares, and below it what each colour means."""
    total = sum(parts.values())
    bar, legend = Text(), Text()
    for index, (name, value) in enumerate(parts.items()):
        colour = COLOURS[index % len(COLOURS)]
        cells = round(width * value / total) if total else 0
        bar.append("█" * cells, style=colour)
        legend.append("■ ", style=colour)
        legend.append(f"{name.replace('_', ' ')} {amount(value, unit)}   ")
    return Group(bar, legend)


def show(console: Console, *blocks: RenderableType) -> None:
    """Print blocks, indented, with a blank line between them."""
    for block in blocks:
        console.print()
        console.print(Padding(block, (0, 1)))
    console.print()
