"""Pages: well-formed, self-contained, and safe against what is put into them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.core.html import Series, bars, heading, lines, page, paragraph, stacked, table

VOID = {"meta"}


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
                bars(values, shown, text),
                stacked(values, shown, text),
                lines(series, ["<b>", text], text),
            ],
        )
    )


def test_markup_is_escaped() -> None:
    found = page("<script>alert(1)</script>", [paragraph("a < b & c")])
    assert "<script>" not in found
    assert "a < b & c" in checked(found)


@pytest.mark.parametrize("top", [0.00012, 0.0199, 1.0, 7.9, 9999.0])
def test_lines_stay_inside_their_picture(top: float) -> None:
    picture = lines([Series("a", [0.0, top / 2, top])], ["x", "y", "z"], "axis", percent=False)
    points = re.findall(r"([\d.]+),([\d.]+)", picture)
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
    spans = re.findall(r'<rect x="([\d.]+)" y="4" width="([\d.]+)"', picture)
    assert [(float(x), float(width)) for x, width in spans] == [(0, 180), (180, 540)]
    assert "b 3 B" in picture
