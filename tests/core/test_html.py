"""Pages: well-formed, self-contained, and safe against what is put into them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy import __version__
from nemotron_deploy.core.html import (
    FONT_SIZE,
    WIDTH,
    Series,
    bars,
    bullets,
    charts,
    heading,
    lines,
    page,
    paragraph,
    stacked,
    table,
    today,
)

VOID = {"meta"}
DAY = date(2026, 11, 27)


class Checker(HTMLParser):
    """Fails on tags that do not match, scripts, and anything fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(text: str) -> str:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.open
    assert "url(" not in text
    assert "@import" not in text
    return "".join(checker.text)


@given(st.text(max_size=40), st.dictionaries(st.text(min_size=1, max_size=9), st.floats(0, 1e6)))
def test_any_text_stays_text(text: str, values: dict[str, float]) -> None:
    shown = dict.fromkeys(values, text)
    series = [Series(name, [value, None]) for name, value in values.items()]
    checked(
        page(
            text,
            [
                heading(text),
                paragraph(text, "note"),
                table((text, "x"), [(text, text)], "cells", text),
                bullets([text, text]),
                bars(values, shown, text),
                charts([stacked(values, shown, text), lines(series, ["<b>", text], text, text)]),
            ],
            DAY,
        )
    )


def test_markup_is_escaped() -> None:
    found = page("<script>alert(1)</script>", [paragraph("a < b & c")], DAY)
    assert "<script>" not in found
    assert "a < b & c" in checked(found)


@pytest.mark.parametrize("top", [0.00012, 0.0199, 1.0, 7.9, 9999.0])
def test_lines_stay_inside_their_picture(top: float) -> None:
    picture = lines(
        [Series("a", [0.0, top / 2, top])], ["x", "y", "z"], "caption", "axis", percent=False
    )
    drawn = re.search(r'points="([^"]*)"', picture)
    assert drawn is not None
    points = re.findall(r"([\d.]+),([\d.]+)", drawn[1])
    assert len(points) == 3
    heights = [float(y) for _, y in points]
    assert heights == sorted(heights, reverse=True)
    assert all(0 <= y <= 240 for y in heights)


def test_bars_are_as_long_as_their_values() -> None:
    picture = bars({"a": 1.0, "b": 3.0}, {"a": "1", "b": "3"}, "axis")
    short, long = (float(width) for width in re.findall(r'<rect x="\d+" y="\d+" width="([\d.]+)"',
                                                        picture))  # fmt: skip
    assert long == pytest.approx(3 * short, rel=0.01)


def test_a_stacked_bar_fills_the_width() -> None:
    picture = stacked({"a": 1.0, "b": 3.0}, {"a": "1 B", "b": "3 B"}, "title")
    spans = re.findall(r'<rect x="([\d.]+)" y="0" width="([\d.]+)"', picture)
    assert [(float(x), float(width)) for x, width in spans] == [
        (0, WIDTH / 4),
        (WIDTH / 4, WIDTH * 3 / 4),
    ]
    assert "b 3 B" in picture


PHONE = 390
"""Pixels of a phone's width; 16 of them are margin on each side."""


def drawn() -> list[str]:
    """One chart of each kind."""
    values, shown = {"a": 1.0, "b": 2.0}, {"a": "1", "b": "2"}
    series = [Series("one", [1.0, 2.0]), Series("two", [2.0, None])]
    return [
        bars(values, shown, "of bars"),
        stacked(values, shown, "of a stack"),
        lines(series, ["x", "y"], "of lines", "axis"),
    ]


@pytest.mark.parametrize("chart", drawn())
def test_a_chart_is_in_a_figure_below_its_own_caption(chart: str) -> None:
    assert re.fullmatch(r"<figure><figcaption>of [a-z ]+</figcaption>.*</svg></figure>", chart)
    assert chart.count("<svg") == chart.count("<figcaption") == 1


@pytest.mark.parametrize("chart", drawn())
def test_text_of_charts_stays_readable_on_a_phone(chart: str) -> None:
    found = re.search(r'viewBox="0 0 (\d+) \d+"', chart)
    assert found is not None
    assert FONT_SIZE * (PHONE - 32) / int(found[1]) >= 11
    assert f"svg text{{fill:var(--soft);font-size:{FONT_SIZE}px}}" in page("t", [chart], DAY)
    assert "font-size" not in chart, "sizes are set in one place"


@pytest.mark.parametrize("count", [2, 9, 10, 52, 118])
def test_labels_beneath_lines_have_room(count: int) -> None:
    labels = [f"{place}E" for place in range(count)]
    chart = lines([Series("a", [0.1] * count)], labels, "caption", "axis")
    places = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="203"', chart)]
    gaps = [right - left for left, right in pairwise(places)]
    assert min(gaps) >= 4 * 0.65 * FONT_SIZE


def test_nothing_is_wider_than_a_phone() -> None:
    text = page("t", [table(("GPU", "bf16", "fp8"), [("h100", "1", "2")], "cells"), *drawn()], DAY)
    style = text[text.index("<style>") : text.index("</style>")]
    widths = [float(width) for width in re.findall(r"[^-]width:([\d.]+)px", style)]
    assert all(width < 50 for width in widths), "no fixed width"
    assert "width:" not in text[text.index("<body>") :].replace("stroke-width:", "")
    assert "svg{width:100%" in style
    assert "overflow-wrap:anywhere" in style
    assert '<table class="cells wide">' in text, "shown as a list on a phone"
    assert '<td data-label="fp8"><span>2</span>' in text


def test_a_page_says_what_made_it_and_when() -> None:
    assert f"Made by nemo-deploy {__version__} on 2026-11-27." in checked(page("t", [], DAY))


def test_the_date_can_be_set_for_builds_that_are_to_be_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert today() == date(1970, 1, 2)
    for other in ("", "soon", "-5"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", other)
        before = datetime.now(UTC).date()
        assert before <= today() <= datetime.now(UTC).date()


def test_colours_follow_the_reader_on_screens_only() -> None:
    text = page("t", [], DAY)
    assert "@media screen and (prefers-color-scheme:dark)" in text
    assert text.count("prefers-color-scheme") == 1
    assert "@media print" in text
