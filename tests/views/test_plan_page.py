"""Pages of plans: ids with words, sources of prices, what made them and when."""

from __future__ import annotations

import re
from datetime import date
from html import unescape

import pytest

from nemotron_deploy import __version__
from nemotron_deploy.api.plan import PlanRequest, answer, compare
from nemotron_deploy.model.catalog import gpus
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.views.plan_page import matrix_page, plan_page

NANO = "nemotron-3-nano-30b-a3b"
DAY = date(2026, 11, 27)
MADE = f"Made by nemo-deploy {__version__} on 2026-11-27."


def question(
    gpu: str | None = None,
    quant: str | None = None,
    *,
    price: float | None = None,
    max_tpot_ms: float = 50.0,
) -> PlanRequest:
    return PlanRequest(NANO, Workload(), gpu, quant, price, max_tpot_ms)


def planned(gpu: str, quant: str, price: float | None = None) -> str:
    return unescape(plan_page(answer(question(gpu, quant, price=price)), DAY))


def matrix(price: float | None = None, max_tpot_ms: float = 50.0) -> str:
    result = compare(question(price=price, max_tpot_ms=max_tpot_ms))
    return unescape(matrix_page(result, DAY))


def test_a_plan_says_what_made_it_and_where_prices_are_from() -> None:
    text = planned("h100", "fp8")
    assert MADE in text
    assert re.search(r"GPU: [\d.]+ USD per hour \(one host's list of \w+ \d{4}; ", text)
    assert re.search(r"API: the cheapest listed API for it, mid-\d{4}", text)
    assert "12 USD per hour (given with --price)" in planned("h100", "fp8", price=12.0)


def test_a_plan_without_a_cost_says_why() -> None:
    text = planned("h100-nvl", "fp8")
    assert "no list price is known for this GPU" in text
    assert "USD per million" not in text


def test_every_chart_has_a_caption() -> None:
    text = planned("h100", "fp8")
    assert text.count("<svg") == text.count("<figcaption>") == text.count("<figure>") == 3
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == [
        "What the memory of one GPU holds",
        "Output tokens per second of all GPUs",
        "Milliseconds per token",
    ]


def test_a_refusal_gives_the_rule_in_words() -> None:
    text = planned("a100", "fp8")
    assert re.search(r"Not possible\. FP8 needs SM89 or later .* \(Rule fp8-sm89\.\)", text)
    assert "What works instead:" in text
    assert "What the memory of one GPU would hold" in text


def test_the_matrix_explains_each_rule_that_it_names() -> None:
    text = matrix()
    cells, below = text.split("How to read a cell")
    rules = set(re.findall(r"no: ([\w-]+)", cells))
    assert {"fp8-sm89", "nvfp4-image"} <= rules
    for rule in rules | {"too large"}:
        assert re.search(rf'<th scope="row">{rule}</th>.*\n?.*Reason"><span>[A-Z].{{20}}', below)
    assert "$?" not in text
    assert "no price: no list price" in below


def test_the_matrix_explains_only_what_occurs() -> None:
    assert "too slow" not in matrix()
    assert "too slow: no number of sequences keeps" in matrix(max_tpot_ms=0.5)


@pytest.mark.parametrize("price", [None, 2.5])
def test_the_matrix_has_the_source_of_every_price(price: float | None) -> None:
    text = matrix(price)
    assert MADE in text
    prices = text[text.index("Prices of the GPUs") :]
    if price:
        assert "h100-nvl: 2.5 USD per hour (given with --price)" in prices
    else:
        assert re.search(r"h100: [\d.]+ USD per hour \(one host's list of \w+ \d{4}", prices)
        assert "h100-nvl: no list price is known" in prices
    assert "rtx-5090:" not in prices, "nothing runs there"


def test_the_matrix_is_a_list_on_a_phone() -> None:
    text = matrix()
    assert '<table class="cells wide">' in text
    assert text.count('data-label="fp8"') == text.count('data-label="int4"') == len(gpus())
