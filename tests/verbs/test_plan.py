"""`plan` on the command line: recommending, all at once, money, pages, a load test of one's own."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.cli import run


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["plan", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, _ = answer(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


def test_without_a_format_one_is_recommended_and_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = document(capsys, "--gpu", "h100")
    assert found["quant"]["requested"] == "fp8"
    assert "int4 on h100" in found["why"]
    assert found["cost"]["price_source"] == "one host's list, March 2026"
    _, text, _ = answer(capsys, "--gpu", "a100")
    assert "chosen" in text
    unpriced = document(capsys, "--gpu", "h100-nvl")
    assert unpriced["cost"] is None
    assert "most output tokens" in unpriced["why"]
    assert "least money" in document(capsys, "--gpu", "h100-nvl", "--price", "3")["why"]


def test_no_format_fits(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = answer(capsys, "--gpu", "l4")
    assert code == 3
    assert "plan --matrix" in err


def test_the_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--matrix", "--optimize", "throughput")
    assert (found["best"]["gpu"], found["best"]["quant"]) == ("h200", "fp8")
    refused = next(c for c in found["cells"] if (c["gpu"], c["quant"]) == ("a100", "fp8"))
    assert refused["rule"] == "fp8-sm89"
    assert refused["alternatives"]
    _, text, _ = answer(capsys, "--matrix")
    assert "★" in text
    assert "no: fp8-sm89" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give --gpu, or --matrix"),
        (("--gpu", "h100", "--optimize", "beauty"), 2, "known are latency, throughput, cost"),
        (("--matrix", "--calibrate-from", "r.json"), 2, "--calibrate-from holds for"),
        (("--gpu", "h100", "--quant", "fp8", "--calibrate-from", "no.json"), 4, "No such file"),
        (("--gpu", "h100", "--quant", "fp8", "--html", "/no/such/place.html"), 4, "cannot be"),
    ],
)
def test_wrong_ways(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, _, err = answer(capsys, *arguments)
    assert found == code
    assert message in err


def test_a_load_test_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pair = ("--gpu", "h100", "--quant", "int4")
    before = document(capsys, *pair)["estimate"]
    point = before["curve"][0]
    run_of = {
        "concurrency": 1,
        "errors": 0,
        "itl_ms": {"p50": 2 * point["tpot_ms"]},
        "ttft_ms": {"p50": 3 * point["ttft_ms"]},
    }
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"runs": [run_of]}))
    after = document(capsys, *pair, "--calibrate-from", str(report))["estimate"]
    assert after["tpot_ms"] == pytest.approx(2 * before["tpot_ms"])
    assert after["ttft_ms"] == pytest.approx(3 * before["ttft_ms"])
    for text in ("{", "[]", '{"runs": [{"concurrency": 1}]}', '{"runs": []}'):
        report.write_text(text)
        code, _, err = answer(capsys, *pair, "--calibrate-from", str(report))
        assert code == 4
        assert "cannot be used as a report" in err


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [str(value) for name, value in attrs if name in ("src", "href")]


def test_a_page_with_charts_and_nothing_from_elsewhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "plan.html"
    document(capsys, "--gpu", "h100", "--quant", "fp8", "--html", str(path))
    text = path.read_text()
    links = _Links()
    links.feed(text)
    assert not links.outside
    assert text.count("<svg") == 3
    assert "a hosted API" in text
    answer(capsys, "--gpu", "a100", "--quant", "fp8", "--html", str(path))
    assert "FP8 needs SM89" in path.read_text()
