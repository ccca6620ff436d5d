"""Self-contained HTML pages: no script, no font and no picture from anywhere else.

Charts are inline SVG. Colours follow the reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 720
LEFT, RIGHT, TOP, BOTTOM = 64, 132, 14, 40

_STYLE: Final = """
:root{--ink:#1c2024;--soft:#667080;--line:#d8dee6;--page:#fff;--card:#f6f8fa;
--c0:#4a7a00;--c1:#2f6fd0;--c2:#c2571a;--c3:#8a4fc4;--c4:#00838a;--c5:#b3266f;
--c6:#7a6a00;--c7:#5a6b7b;--c8:#a8b3bf}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#98a2b0;--line:#333b45;--page:#14171b;
--card:#1c2127;--c0:#8fce2f;--c1:#6ea8fe;--c2:#f2935b;--c3:#c197f2;--c4:#4cc9d0;--c5:#f07fb8;
--c6:#d8c23a;--c7:#8fa0b2;--c8:#4a5561}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);
max-width:760px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.05rem;margin:2rem 0 .4rem}
p{margin:.3rem 0}.soft{color:var(--soft)}
table{border-collapse:collapse;margin:.6rem 0;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right}
th{font-weight:500;color:var(--soft)}th:first-child,td:first-child{text-align:left}
.cells td,.cells th{text-align:left}.cells td{white-space:pre-line}
.best{background:var(--card);font-weight:600}
.note{background:var(--card);border-left:3px solid var(--c2);padding:.6rem .9rem;margin:1rem 0}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}
.grid{stroke:var(--line);stroke-width:1}.mark{fill:none;stroke-width:1.8}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """A named line: one value for each place on the x axis, None where there is none."""

    name: str
    values: Sequence[float | None]


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML document; `parts` are made by the functions below."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, kind: str = "") -> str:
    """Plain text; `kind` is `soft` or `note`."""
    return f'<p class="{kind}">{escape(text)}</p>'


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "", best: str | None = None
) -> str:
    """A table; the first column names the row. `kind` is `cells` for text on several lines; the
    cell that says `best` stands out."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=best' if cell == best else ''}>{escape(cell)}</td>" for cell in row)
        + "</tr>\n"
        for row in rows
    )
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>'


def bars(values: Mapping[str, float], shown: Mapping[str, str], axis: str) -> str:
    """Horizontal bars on a linear scale from zero, with their values written out."""
    longest = max(values.values(), default=0.0) or 1.0
    room = WIDTH - LEFT - RIGHT - 60
    rows = []
    for index, (name, value) in enumerate(values.items()):
        y, length = TOP + index * 26, max(1.0, room * value / longest)
        rows.append(
            f'<text x="{LEFT + 52}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{LEFT + 60}" y="{y + 2}" width="{length:.1f}" height="16" rx="2" '
            f'fill="{_colour(index)}"/><text x="{LEFT + 68 + length:.1f}" y="{y + 14}">'
            f"{escape(shown[name])}</text>"
        )
    return _svg(TOP + len(values) * 26 + 8, axis, rows)


def stacked(values: Mapping[str, float], shown: Mapping[str, str], title: str) -> str:
    """One horizontal bar of the values' shares, and below it what each colour means."""
    total, x = sum(values.values()) or 1.0, 0.0
    parts = []
    for index, (name, value) in enumerate(values.items()):
        length = WIDTH * value / total
        left, y = WIDTH / 3 * (index % 3), 58 + 22 * (index // 3)
        parts.append(
            f'<rect x="{x:.1f}" y="4" width="{length:.1f}" height="34" fill="{_colour(index)}"/>'
            f'<rect x="{left:.1f}" y="{y - 11}" width="12" height="12" rx="2" '
            f'fill="{_colour(index)}"/><text x="{left + 18:.1f}" y="{y}">'
            f"{escape(name)} {escape(shown[name])}</text>"
        )
        x += length
    return _svg(58 + 22 * -(-len(values) // 3), title, parts)


def lines(series: Sequence[Series], labels: Sequence[str], axis: str, percent: bool = True) -> str:
    """Lines over equally spaced places with the names `labels`, from zero up."""
    height = 240
    found = [value for one in series for value in one.values if value is not None]
    top = _round_up(max(found, default=1.0) or 1.0)
    low, high = height - BOTTOM, TOP
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels) - 1)

    def point(place: int, value: float) -> str:
        return f"{LEFT + place * step:.1f},{low - (low - high) * value / top:.1f}"

    parts = []
    for tick in range(5):
        value = top * tick / 4
        y = low - (low - high) * tick / 4
        text = f"{value:.6g}" if not percent else f"{value:.2%}" if top < 0.02 else f"{value:.1%}"
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )
    every = math.ceil(len(labels) / 26)
    parts += [
        f'<text x="{LEFT + place * step:.1f}" y="{low + 18}" text-anchor="middle">'
        f"{escape(label)}</text>"
        for place, label in enumerate(labels)
        if place % every == 0
    ]
    for index, one in enumerate(series):
        points = [point(place, v) for place, v in enumerate(one.values) if v is not None]
        parts.append(
            f'<polyline class="mark" stroke="{_colour(index)}" points="{" ".join(points)}"/>'
            f'<rect x="{WIDTH - RIGHT + 14}" y="{TOP + index * 20}" width="12" height="12" rx="2" '
            f'fill="{_colour(index)}"/>'
            f'<text x="{WIDTH - RIGHT + 32}" y="{TOP + 10 + index * 20}">{escape(one.name)}</text>'
        )
    return _svg(height, axis, parts)


def _svg(height: int, title: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + f"</svg>\n{paragraph(title, 'soft')}"
    )


def _colour(index: int) -> str:
    return f"var(--c{index % 9})"


def _round_up(value: float) -> float:
    """The next 1, 2, 4, 5 or 8 times a power of ten."""
    value = max(value, 1e-300)
    power = 10.0 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 4, 5, 8, 10) if m * power >= value * 0.999)
