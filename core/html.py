"""Self-contained HTML pages: no script, no font and no picture from anywhere else.

Charts are inline SVG inside a `<figure>` with its caption. They are drawn `WIDTH` units wide, the
width of a phone, so that text keeps its size there; wider screens show charts side by side.
Colours follow the reader's light or dark setting; print is always light.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from html import escape
from typing import Final

from .. import __version__
from ..runtime import contract

WIDTH: Final = 360
"""Width of every chart in its own units; a phone of 390 px shows it at about 356 px."""

FONT_SIZE: Final = 12
"""Size of the text in charts, in the charts' units."""

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 230, 50, 14, 10, 44
"""Of a line chart: its height, and the margins around the plotted area."""

MOST_LABELS: Final = 9
"""Labels of places that fit beneath a line chart."""

_LIGHT: Final = (
    "--ink:#1c2024;--soft:#5a6472;--line:#d8dee6;--page:#fff;--card:#f3f5f8;"
    "--c0:#4a7a00;--c1:#2f6fd0;--c2:#c2571a;--c3:#8a4fc4;--c4:#00838a;--c5:#b3266f;"
    "--c6:#7a6a00;--c7:#5a6b7b;--c8:#a8b3bf"
)
_DARK: Final = (
    "--ink:#e6e9ee;--soft:#a3adba;--line:#333b45;--page:#14171b;--card:#1f252c;"
    "--c0:#8fce2f;--c1:#6ea8fe;--c2:#f2935b;--c3:#c197f2;--c4:#4cc9d0;--c5:#f07fb8;"
    "--c6:#d8c23a;--c7:#8fa0b2;--c8:#4a5561"
)
_STYLE: Final = f"""
:root{{color-scheme:light dark;{_LIGHT}}}
@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);
max-width:800px;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}}
h1{{font-size:1.5rem;line-height:1.25;margin:0 0 .5rem}}h2{{font-size:1.15rem;margin:2rem 0 .4rem}}
p{{margin:.4rem 0}}ul{{margin:.4rem 0;padding-left:1.2rem}}.soft{{color:var(--soft)}}
table{{border-collapse:collapse;margin:.6rem 0;width:100%;font-variant-numeric:tabular-nums}}
th,td{{padding:.3rem .5rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}}
thead th{{font-weight:500;color:var(--soft)}}tbody th{{font-weight:500}}
th:first-child,.cells td,.cells th{{text-align:left}}.cells td{{white-space:pre-line}}
th,td{{overflow-wrap:normal}}th[scope=row]{{min-width:6rem}}
th[scope=row],.cells td,.wide td{{overflow-wrap:anywhere}}
.best{{background:var(--card);font-weight:600}}
.note{{background:var(--card);border-left:3px solid var(--c2);padding:.6rem .9rem;margin:1rem 0}}
.charts{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1.5rem}}
figure{{margin:1rem 0;max-width:30rem}}.charts figure{{margin:0}}
figcaption{{font-weight:500;margin-bottom:.4rem}}
svg{{width:100%;height:auto;display:block}}svg text{{fill:var(--soft);font-size:{FONT_SIZE}px}}
.grid{{stroke:var(--line);stroke-width:1}}.mark{{fill:none;stroke-width:2}}
.legend{{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1rem;padding:0;font-size:.875rem}}
.swatch{{display:inline-block;width:.75rem;height:.75rem;border-radius:2px;margin-right:.4rem}}
footer{{margin-top:2.5rem;padding-top:.6rem;border-top:1px solid var(--line);color:var(--soft)}}
@media screen and (max-width:640px){{
.wide thead{{display:none}}.wide tbody,.wide tr,.wide td,.wide th{{display:block}}
.wide tbody th{{font-weight:600;border:0;padding:.7rem .5rem .1rem}}
.wide td{{display:grid;grid-template-columns:minmax(5rem,2fr) 3fr;gap:.5rem;text-align:left;
border-bottom:1px dotted var(--line)}}
.wide td::before{{content:attr(data-label);color:var(--soft);font-weight:400}}}}
@media print{{:root{{color-scheme:light}}
*{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
body{{font-size:11pt;margin:0 auto}}figure,tr,.note{{break-inside:avoid}}h2{{break-after:avoid}}}}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """A named line: one value for each place on the x axis, None where there is none."""

    name: str
    values: Sequence[float | None]


def today() -> date:
    """Today's date in UTC, for `page`. A whole number in SOURCE_DATE_EPOCH (seconds since 1970)
    takes its place, so that builds can be repeated to the byte on another day."""
    epoch = os.environ.get(contract.SOURCE_DATE.name, "")
    if epoch.isascii() and epoch.isdigit():
        return datetime.fromtimestamp(int(epoch), UTC).date()
    return datetime.now(UTC).date()


def page(title: str, parts: Iterable[str], made_on: date) -> str:
    """A whole HTML document that ends with the version that made it and the date.

    `parts` are made by the functions below.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + f"\n<footer>Made by nemo-deploy {__version__} on {made_on.isoformat()}.</footer>\n"
        "</body></html>\n"
    )


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """Plain text; `kind` is `soft` or `note`."""
    return f'<p class="{kind}">{escape(text)}</p>'


def bullets(items: Iterable[str], kind: str = "") -> str:
    """A list of plain texts; `kind` is `soft` or empty."""
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "", best: str | None = None
) -> str:
    """A table; the first column names the row. `kind` is `cells` for text on several lines; the
    cell that says `best` stands out.

    Of a table with more than two columns, a phone shows every cell on a line of its own beside its
    column's name.
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(f"<tr>{_row(header, row, best)}</tr>\n" for row in rows)
    kinds = f"{kind} wide" if len(header) > 2 else kind
    return f'<table class="{kinds}"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>'


def _row(header: Sequence[str], row: Sequence[str], best: str | None) -> str:
    cells = zip(header[1:], row[1:], strict=True)
    return f'<th scope="row">{escape(row[0])}</th>' + "".join(
        f'<td{" class=best" if cell == best else ""} data-label="{escape(label)}">'
        f"<span>{escape(cell)}</span></td>"
        for label, cell in cells
    )


def charts(figures: Iterable[str]) -> str:
    """Charts beside each other where the screen is wide enough, below each other elsewhere."""
    return f'<div class="charts">{"".join(figures)}</div>'


def bars(values: Mapping[str, float], shown: Mapping[str, str], caption: str) -> str:
    """Horizontal bars on a linear scale from zero, each below its name and its value."""
    longest = max(values.values(), default=0.0) or 1.0
    parts = []
    for index, (name, value) in enumerate(values.items()):
        y, length = index * 38, max(1.0, WIDTH * value / longest)
        parts.append(
            f'<text x="0" y="{y + 13}">{escape(name)}</text>'
            f'<text x="{WIDTH}" y="{y + 13}" text-anchor="end">{escape(shown[name])}</text>'
            f'<rect x="0" y="{y + 18}" width="{length:.1f}" height="12" rx="2" '
            f'fill="{colour(index)}"/>'
        )
    return figure(caption, len(values) * 38, parts)


def stacked(values: Mapping[str, float], shown: Mapping[str, str], caption: str) -> str:
    """One horizontal bar of the values' shares, and a legend with the values."""
    total, x = sum(values.values()) or 1.0, 0.0
    parts = []
    for index, value in enumerate(values.values()):
        length = WIDTH * value / total
        parts.append(
            f'<rect x="{x:.1f}" y="0" width="{length:.1f}" height="30" fill="{colour(index)}"/>'
        )
        x += length
    return figure(caption, 34, parts, legend(f"{name} {shown[name]}" for name in values))


def lines(
    series: Sequence[Series],
    labels: Sequence[str],
    caption: str,
    axis: str,
    percent: bool = True,
) -> str:
    """Lines over equally spaced places with the names `labels`, from zero up. `axis` says what the
    places are; the caption says what is drawn, and its unit."""
    values = [value for one in series for value in one.values if value is not None]
    top = _round_up(max(values, default=1.0) or 1.0)
    low, high = HEIGHT - BOTTOM, TOP
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels) - 1)

    def point(place: int, value: float) -> str:
        return f"{LEFT + place * step:.1f},{low - (low - high) * value / top:.1f}"

    parts = []
    for tick in range(5):
        value = top * tick / 4
        y = low - (low - high) * tick / 4
        text = f"{value:,.6g}" if not percent else f"{value:.2%}" if top < 0.02 else f"{value:.1%}"
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )
    every = math.ceil(len(labels) / MOST_LABELS)
    parts += [
        f'<text x="{LEFT + place * step:.1f}" y="{low + 17}" text-anchor="middle">'
        f"{escape(label)}</text>"
        for place, label in enumerate(labels)
        if place % every == 0
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{low + 37}" text-anchor="middle">{escape(axis)}</text>')
    for index, one in enumerate(series):
        points = [point(place, v) for place, v in enumerate(one.values) if v is not None]
        parts.append(
            f'<polyline class="mark" stroke="{colour(index)}" points="{" ".join(points)}"/>'
        )
    names = [one.name for one in series] if len(series) > 1 else []
    return figure(caption, HEIGHT, parts, legend(names))


def legend(names: Iterable[str]) -> list[tuple[str, str]]:
    """Each of `names` with the colour of its place."""
    return [(name, colour(index)) for index, name in enumerate(names)]


def figure(
    caption: str, height: int, parts: Iterable[str], meanings: Iterable[tuple[str, str]] = ()
) -> str:
    """A chart below its caption and what each of its colours means."""
    items = "".join(
        f'<li><span class="swatch" style="background:{shade}"></span>{escape(text)}</li>'
        for text, shade in meanings
    )
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        + (f'<ul class="legend">{items}</ul>' if items else "")
        + f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(caption)}">'
        + "".join(parts)
        + "</svg></figure>"
    )


def colour(index: int) -> str:
    """The colour of a place, as CSS."""
    return f"var(--c{index % 9})"


def _round_up(value: float) -> float:
    """The next 1, 2, 4, 5 or 8 times a power of ten."""
    value = max(value, 1e-300)
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 4, 5, 8, 10) if m * power >= value * 0.999)
