"""Charts of numbers against numbers, for the pages of `core.html`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, TypeVar

from .html import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, colour, figure, legend

_T = TypeVar("_T")

_TICKS: Final = 4
"""Intervals that an axis has about."""
_DECADES: Final = 1e6
_DIGIT: Final = 7
"""Width of a digit, in the chart's units."""
_LOW, _HIGH = HEIGHT - BOTTOM, TOP
_SHADE: Final = "var(--c8)"
_ALARM: Final = "var(--c5)"


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line through points (x, y); a point without y interrupts it. `labels` are written
    beside the points."""

    name: str
    points: Sequence[tuple[float, float | None]]
    labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands out on the x axis.

    Attributes:
        shaded: Intervals, and what they mean.
        alarms: Places with a thin line, and what they mean.
        dividers: Places where something else begins.
    """

    shaded: tuple[str, Sequence[tuple[float, float]]] = ("", ())
    alarms: tuple[str, Sequence[float]] = ("", ())
    dividers: Sequence[float] = ()


NO_MARKS: Final = Marks()


def plot(
    curves: Sequence[Curve],
    caption: str,
    axis: str,
    *,
    dots: bool = False,
    logarithmic: bool = False,
    percent: bool = False,
    named: bool = False,
    marks: Marks = NO_MARKS,
) -> str:
    """Curves over numbers, from zero up. `axis` names the numbers, the caption says what is drawn,
    and its unit.

    Args:
        dots: Whether each point is marked.
        logarithmic: Whether the x axis is. It begins at a millionth of the greatest number at
            the least; points below that are left out.
        percent: Whether the y values are shares, from 0 to 1.
        named: Whether a single curve is named, too.
        marks: What stands out.
    """
    xs = [x for curve in curves for x, y in curve.points if y is not None]
    ys = [y for curve in curves for _, y in curve.points if y is not None]
    right = max(xs, default=1.0)
    left = max(min((x for x in xs if x > 0), default=right), right / _DECADES) or 1.0
    ticks = _log_ticks(left, right or 1.0) if logarithmic else _ticks(right)
    heights = _ticks(1.0 if percent else max(ys, default=1.0))
    place = _scale(ticks[0], ticks[-1], LEFT, WIDTH - RIGHT, logarithmic)
    height = _scale(0.0, heights[-1], _LOW, _HIGH)
    parts = [
        *_shaded(marks, place),
        *_grid(heights, height, percent),
        *_x_axis(ticks, place, axis),
        *_alarms(marks, place),
    ]
    for index, curve in enumerate(curves):
        shown = [
            (place(x), None if y is None else height(y))
            for x, y in curve.points
            if x >= left or not logarithmic
        ]
        parts += _line(shown, index, dots)
        parts += _labels(shown, curve.labels)
    names = [curve.name for curve in curves] if named or len(curves) > 1 else []
    return figure(caption, HEIGHT, parts, [*legend(names), *_marks_legend(marks)])


def _scale(
    low: float, high: float, start: float, end: float, logarithmic: bool = False
) -> Callable[[float], float]:
    bend: Callable[[float], float] = math.log10 if logarithmic else float
    first, length = bend(low), (bend(high) - bend(low)) or 1.0
    return lambda value: start + (end - start) * (bend(value) - first) / length


def _ticks(top: float) -> list[float]:
    """From zero to at least `top`, in steps of 1, 2 or 5 times a power of ten."""
    raw = (top if top > 0 else 1.0) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    return [step * index for index in range(max(2, math.ceil(top / step - 1e-9) + 1))]


def _log_ticks(low: float, high: float) -> list[float]:
    """From below `low` to above `high`: 1, 2 and 5 times each power of ten, or each power alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    multiples = (1, 2, 5) if len(powers) <= 3 else (1,)
    every = [m * 10.0**power for power in powers for m in multiples]
    below = max((tick for tick in every if tick <= low), default=every[0])
    above = min((tick for tick in every if tick >= high and tick > below), default=every[-1])
    return [tick for tick in every if below <= tick <= above]


def _grid(ticks: Iterable[float], height: Callable[[float], float], percent: bool) -> Iterator[str]:
    for tick in ticks:
        y = height(tick)
        text = f"{tick:.0%}" if percent else f"{tick:,.6g}"
        yield (
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )


def _x_axis(ticks: Iterable[float], place: Callable[[float], float], axis: str) -> Iterator[str]:
    for tick in ticks:
        text = f"{tick:,.6g}"
        at_edge = place(tick) + len(text) * _DIGIT / 2 > WIDTH
        x, anchor = (float(WIDTH), "end") if at_edge else (place(tick), "middle")
        yield f'<text x="{x:.1f}" y="{_LOW + 17}" text-anchor="{anchor}">{text}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{_LOW + 37}" text-anchor="middle">{escape(axis)}</text>'


def _shaded(marks: Marks, place: Callable[[float], float]) -> Iterator[str]:
    for start, end in marks.shaded[1]:
        x = place(start)
        yield (
            f'<rect x="{x:.1f}" y="{_HIGH}" width="{max(1.0, place(end) - x):.1f}" '
            f'height="{_LOW - _HIGH}" fill="{_SHADE}" fill-opacity="0.5"/>'
        )


def _alarms(marks: Marks, place: Callable[[float], float]) -> Iterator[str]:
    for at in marks.dividers:
        yield (
            f'<line class="grid" stroke-dasharray="3 3" x1="{place(at):.1f}" '
            f'x2="{place(at):.1f}" y1="{_HIGH}" y2="{_LOW}"/>'
        )
    for at in marks.alarms[1]:
        yield (
            f'<line stroke="{_ALARM}" stroke-width="2" x1="{place(at):.1f}" '
            f'x2="{place(at):.1f}" y1="{_LOW - 14}" y2="{_LOW}"/>'
        )


def _line(points: Sequence[tuple[float, float | None]], index: int, dots: bool) -> Iterator[str]:
    pieces: list[list[str]] = [[]]
    for x, y in points:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{x:.1f},{y:.1f}")
    for piece in pieces:
        if len(piece) > 1:
            yield f'<polyline class="mark" stroke="{colour(index)}" points="{" ".join(piece)}"/>'
    for x, y in points:
        alone = f"{x:.1f},{y:.1f}" if y is not None else ""
        if y is not None and (dots or [alone] in pieces):
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour(index)}"/>'


def _labels(points: Sequence[tuple[float, float | None]], labels: Sequence[str]) -> Iterator[str]:
    for (x, y), label in zip(points, labels, strict=False):
        if y is not None:
            anchor = "end" if x > WIDTH * 0.8 else "start"
            yield (
                f'<text x="{x:.1f}" y="{y - 7:.1f}" text-anchor="{anchor}">{escape(label)}</text>'
            )


def _marks_legend(marks: Marks) -> Iterator[tuple[str, str]]:
    for (name, places), shade in ((marks.shaded, _SHADE), (marks.alarms, _ALARM)):
        if places:
            yield name, shade


def thinned(values: Sequence[_T], most: int) -> Sequence[_T]:
    """At most `most` of `values`, evenly chosen, with the first and the last."""
    if len(values) <= most:
        return values
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]
