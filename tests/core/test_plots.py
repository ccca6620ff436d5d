"""Charts of numbers against numbers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.html import HEIGHT, WIDTH
from nemotron_deploy.core.plots import Curve, Marks, plot, thinned
from nemotron_deploy.tests.core.test_html import checked

NUMBERS = st.floats(min_value=0, max_value=1e12)


@given(st.lists(st.tuples(NUMBERS, st.none() | NUMBERS)), st.booleans(), st.booleans())
def test_everything_lies_inside_the_chart(
    points: list[tuple[float, float | None]], logarithmic: bool, dots: bool
) -> None:
    chart = plot([Curve("a", points)], "c", "x", logarithmic=logarithmic, dots=dots)
    checked(chart)
    drawn = re.findall(r'points="([^"]*)"', chart)
    places = [tuple(map(float, each.split(","))) for line in drawn for each in line.split()]
    places += [
        (float(x), float(y)) for x, y in re.findall(r'circle cx="([^"]+)" cy="([^"]+)"', chart)
    ]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    if dots:
        shown = [x for x, y in points if y is not None]
        least = max(shown, default=0) / 1e6 if logarithmic else 0
        kept = [x for x in shown if x >= least and (x > 0 or not logarithmic)]
        assert chart.count("<circle") == len(kept)


def test_axes_have_round_numbers() -> None:
    chart = plot([Curve("a", [(1, 3.7), (9, 70)])], "c", "x")
    ticks = re.findall(r'text-anchor="end">([\d,.]+)<', chart)
    assert ticks == ["0", "20", "40", "60", "80"]
    chart = plot([Curve("a", [(30, 1), (700, 0)])], "c", "x", logarithmic=True, percent=True)
    assert re.findall(r'y="203" text-anchor="\w+">([\d,.]+)<', chart) == [
        "20", "50", "100", "200", "500", "1,000",
    ]  # fmt: skip
    assert ">100%<" in chart


def test_a_gap_interrupts_a_curve_and_a_lone_point_is_a_dot() -> None:
    chart = plot([Curve("a", [(0, 1), (1, 1), (2, None), (3, 1)])], "c", "x")
    assert chart.count("<polyline") == chart.count("<circle") == 1


def test_marks_are_explained_where_there_are_some() -> None:
    curves = [Curve("a", [(0, 1), (9, 2)])]
    marked = plot(
        curves, "c", "x", marks=Marks(("late <", [(1, 2), (4, 5)]), ("failed", [3]), [6])
    )  # fmt: skip
    assert marked.count('fill-opacity="0.5"') == 2
    assert "late &lt;</li>" in marked
    assert "failed</li>" in marked
    assert "stroke-dasharray" in marked
    assert "<li>" not in plot(curves, "c", "x", marks=Marks(("late", []), ("failed", []), []))


@pytest.mark.parametrize(("count", "most"), [(0, 3), (3, 3), (10, 3), (100, 8)])
def test_thinned_keeps_the_ends(count: int, most: int) -> None:
    values = thinned(list(range(count)), most)
    assert len(values) == min(count, most)
    if count:
        assert (values[0], values[-1]) == (0, count - 1)
