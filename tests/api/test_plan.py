"""`plan` on the command line: recommending, all at once, money, pages, a load test of one's own."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.api.build import dry_run, prepare
from nemotron_deploy.api.plan import PlanRequest, compare, plan
from nemotron_deploy.cli import run
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.spec import Workload


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["plan", *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, _ = answer(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


PLAN_KEYS = {
    "against", "alternatives", "backend", "buildable", "conv_bytes_per_sequence", "cost", "env",
    "estimate", "free_bytes", "gpu", "gpu_name", "gpus", "image", "kv_bytes_per_token", "llm_args",
    "max_concurrency", "max_context", "memory", "model", "needs", "not_against", "notes", "plugin",
    "quant", "reasons", "rule", "sm", "state_bytes_per_sequence", "status", "supported", "tried",
    "trtllm_versions", "weights_bytes", "why",
}  # fmt: skip
CELL_KEYS = {
    "alternatives", "cost", "gpu", "gpus", "max_concurrency", "max_context",
    "output_tokens_per_s_per_gpu", "quant", "reasons", "rule", "supported", "tpot_ms", "tried",
}  # fmt: skip


def test_the_documents_have_their_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--gpu", "h100", "--quant", "int4")
    assert set(found) >= PLAN_KEYS | {"schema", "made_by", "engine"}
    engine = found["engine"]
    assert engine["name"] == "tensorrt-llm"
    assert engine["tested_on"] == ["NVIDIA H200, 2026-11-27: kernels"]
    assert (engine["versions"], engine["image"], engine["args"]) == (
        found["trtllm_versions"], found["image"], found["llm_args"]
    )  # fmt: skip
    assert (found["schema"], found["concurrency"]) == (1, engine["args"]["max_batch_size"])
    matrix = document(capsys, "--matrix")
    assert set(matrix) >= {"model", "workload", "optimize", "best", "why", "cells", "schema"}
    assert all(set(cell) >= CELL_KEYS for cell in matrix["cells"])
    assert set(matrix["best"]) == {"gpu", "gpus", "quant"}


def test_results_are_typed_for_python() -> None:
    result = plan("tiny", gpu="h100", quant="fp8", context=4096)
    assert result.supported
    assert result.engine.args["max_seq_len"] == result.context == 4096
    assert json.loads(json.dumps(result.to_json())) == result.to_json()
    matrix = compare(PlanRequest("tiny", Workload(), gpu="h100"))
    best = [cell for cell in matrix.cells if matrix.is_best(cell)]
    assert matrix.best is not None
    assert [cell.quant for cell in best] == [matrix.best.quant]


def test_the_default_engine_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    pair = ("--gpu", "h100", "--quant", "fp8")
    assert document(capsys, *pair, "--engine", "tensorrt-llm") == document(capsys, *pair)


@pytest.mark.parametrize("command", ["plan", "build"])
def test_an_unknown_engine_is_wrong_usage(capsys: pytest.CaptureFixture[str], command: str) -> None:
    arguments = [command, "--checkpoint", "tiny", "--gpu", "h100", "--quant", "fp8"]
    assert run([*arguments, "--engine", "orca"]) == 2
    assert "unknown engine 'orca'; known are tensorrt-llm, vllm" in capsys.readouterr().err


def test_without_a_format_one_is_recommended_and_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = document(capsys, "--gpu", "h100")
    assert found["quant"]["requested"] == "fp8"
    assert "int4 on h100" in found["why"]
    assert found["cost"]["price_source"].startswith("one host's list of March 2026")
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


def test_the_matrix(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = document(capsys, "--matrix", "--optimize", "throughput")
    assert (found["best"]["gpu"], found["best"]["quant"]) == ("b200", "fp8")
    refused = next(c for c in found["cells"] if (c["gpu"], c["quant"]) == ("a100", "fp8"))
    assert refused["rule"] == "fp8-sm89"
    assert refused["alternatives"]
    _, text, _ = answer(capsys, "--matrix")
    assert "★" in text
    assert "fp8-sm89" in text
    assert "…" not in text, "nothing is cut off"
    page = tmp_path / "matrix.html"
    document(capsys, "--matrix", "--html", str(page))
    assert page.read_text().count("<td class=best") == 1
    assert "no: fp8-sm89" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give --gpu, or --matrix"),
        (("--gpu", "h100", "--optimize", "beauty"), 2, "known are latency, throughput, cost"),
        (
            ("--gpu", "h100", "--quant", "int4", "--optimize", "beauty"),
            2,
            "known are latency, throughput, cost",
        ),
        (("--gpu", "h100", "--group-size", "32"), 2, "belong to one --quant"),
        (("--matrix", "--recipe", "aggressive"), 2, "belong to one --quant"),
        (("--gpu", "h100", "--quant", "fp8", "--group-size", "32"), 2, "not to fp8"),
        (("--gpu", "h100", "--quant", "int4", "--group-size", "128"), 3, "(rule: group-size)"),
        (("--matrix", "--calibrate-from", "r.json"), 2, "--calibrate-from holds for"),
        (("--gpu", "h100", "--quant", "fp8", "--calibrate-from", "no.json"), 4, "No such file"),
        (("--gpu", "h100", "--quant", "fp8", "--html", "/no/such/place.html"), 4, "cannot be"),
        (("--gpu", "h100", "--against", "qwen3-30b-a3b"), 2, "give both"),
        (("--matrix", "--price", "nan"), 2, "--price nan: give a number"),
        (("--gpu", "h100", "--max-tpot", "inf"), 2, "--max-tpot inf: give a number"),
        (("--gpu", "h300"), 2, "unknown GPU 'h300'"),
        (("--gpu", "h100", "--quant", "fp8", "--against", "gpt-5"), 2, "known are qwen3-30b-a3b"),
    ],
)
def test_wrong_ways(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, _, err = answer(capsys, *arguments)
    assert found == code
    assert message in err


def level(point: dict[str, float], itl: float = 1.0, ttft: float = 1.0) -> dict[str, Any]:
    """A load test's level at which gaps and first tokens take so many times what was estimated."""
    first, gap = ttft * point["ttft_ms"], itl * point["itl_ms"]
    return {
        "concurrency": point["concurrency"],
        "errors": 0,
        "ttft_ms": {"p50": first},
        "itl_ms": {"p50": gap},
        "e2e_ms": {"p50": first + 31 * gap},
        "output_tokens_per_s": 320.0,
        "requests_per_s": 10.0,
    }


def test_a_load_test_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pair = ("--gpu", "h100", "--quant", "int4")
    before = document(capsys, *pair)["estimate"]
    report = tmp_path / "report.json"
    runs = [level(point, itl=2, ttft=3) for point in before["curve"][:4]]
    report.write_text(json.dumps({"runs": [*runs, {"concurrency": 512, "errors": 3}]}))
    after = document(capsys, *pair, "--calibrate-from", str(report))["estimate"]
    assert after["curve"][2]["itl_ms"] == pytest.approx(2 * before["curve"][2]["itl_ms"], rel=0.05)
    assert after["ttft_ms"] == pytest.approx(3 * before["ttft_ms"])
    assert "scaled to a load test" in after["assumptions"][-1]
    code, text, _ = answer(
        capsys, "--gpu", "a100", "--quant", "fp8", "--calibrate-from", str(report)
    )
    assert code == 3
    assert "FP8 needs SM89" in text
    short = level(before["curve"][0]) | {"output_tokens_per_s": 10.0}
    for text in ("{", "[]", '{"runs": [{"concurrency": 1}]}', '{"runs": []}', '{"runs": [1]}',
                 json.dumps({"runs": [short]})):  # fmt: skip
        report.write_text(text)
        code, _, err = answer(capsys, *pair, "--calibrate-from", str(report))
        assert code == 4
        assert "cannot be used as a report" in err


def test_beside_a_peer(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--gpu", "h200", "--quant", "fp8", "--isl", "8192", "--osl", "16384")
    found = document(capsys, *asked, "--against", "Qwen/Qwen3-30B-A3B")["against"]
    assert found["model"] == "qwen3-30b-a3b"
    assert found["times_at_same"] < 3.3 < found["times_at_best"]
    _, text, _ = answer(capsys, *asked, "--against", "qwen3-30b-a3b")
    assert "times that here" in text
    assert document(capsys, *asked)["against"] is None
    large = ("--gpu", "l40s", "--quant", "bf16", "--against", "qwen3-30b-a3b")
    code, text, _ = answer(capsys, *large)
    assert code == 3
    assert "does not run there" in text
    slow = document(capsys, *asked, "--against", "qwen3-30b-a3b", "--max-tpot", "1")
    assert "takes more than 1 ms a token" in slow["not_against"]
    code, text, _ = answer(capsys, *asked, "--checkpoint", "qwen3-30b-a3b")
    assert code == 0
    assert "for comparison only" in text


@pytest.mark.parametrize(
    "options",
    [
        "bf16", "fp8", "int8", "int4", "nvfp4",
        "fp8 --recipe aggressive", "nvfp4 --recipe aggressive", "int4 --recipe aggressive",
        "int8 --recipe aggressive", "int4 --group-size 32", "int8 --group-size 0",
    ],
)  # fmt: skip
def test_what_is_written_weighs_what_was_planned(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: str
) -> None:
    chosen = ("--quant", *options.split(), "--checkpoint", "tiny")
    _, text, _ = answer(capsys, "--gpu", "h100", *chosen, "--json")
    planned = json.loads(text)
    assert run(["quantize", *chosen, "--out", str(tmp_path)]) == 0
    assert Checkpoint.open(tmp_path).bytes == planned["weights_bytes"]
    summary = QUANTS[options.split()[0]].recipe.summary
    assert (planned["layers"] == summary) is ("--" not in options)


def test_a_bundle_can_have_other_groups(tmp_path: Path) -> None:
    job = prepare("tiny", "h100", "int4", Workload(), tmp_path / "bundle", group_size=32)
    plain = prepare("tiny", "h100", "int4", Workload(), tmp_path / "bundle")
    assert [kind.group_size for kind in job.options.recipe.formats] == [32]
    assert job.plan.weights_bytes > plain.plan.weights_bytes
    checkpoint, engine, *_ = dry_run(job).stages
    assert "group 32" in checkpoint.what
    assert engine.action == "make"


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
