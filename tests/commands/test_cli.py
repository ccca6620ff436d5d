"""The command line as a user meets it: output, exit codes, messages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.cli import run
from nemotron_deploy.model.catalog import TINY

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = (
    "inspect", "plan", "quantize", "build", "verify", "check-manifests", "warmup", "serve",
    "loadtest", "loadtest compare", "loadtest report", "doctor", "demo",
)  # fmt: skip


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COLUMNS", "100"), ("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, _ = answer(capsys, *arguments, "--json")
    assert code == 0
    return json.loads(out)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(
    capsys: pytest.CaptureFixture[str], golden: Callable[[Path, str], None], command: str
) -> None:
    code, out, _ = answer(capsys, *command.split(), "--help")
    assert code == 0
    golden(GOLDEN / f"help{'-' if command else ''}{command.replace(' ', '-')}.txt", out)


def test_inspect_of_the_real_model_without_weights(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "inspect")
    assert found["parameters_total"] == 31_577_940_288
    assert found["layers"] == {"mamba": 23, "attention": 6, "moe": 23, "mlp": 0}
    assert found["kv_bytes_per_token"] == {"bf16": 6144, "fp8": 3072}
    assert found["state_bytes_per_sequence"]["fp32"] == 49_082_368
    assert found["weights"] is False


def test_inspect_of_a_checkpoint_counts_its_own_file(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "inspect", "--checkpoint", "tiny")
    assert found["bytes"] == sum(found["dtypes"].values())
    assert found["bytes"] < (TINY / "model.safetensors").stat().st_size
    assert found["weights"] is True


PLAN_KEYS = {
    "model", "gpu", "sm", "quant", "supported", "reasons", "alternatives", "backend", "image",
    "weights_bytes", "kv_bytes_per_token", "state_bytes_per_sequence", "free_bytes",
    "max_concurrency", "max_context", "llm_args", "estimate",
}  # fmt: skip


def test_plan_has_the_documented_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "plan", "--gpu", "h100", "--quant", "fp8")
    assert set(found) >= PLAN_KEYS
    assert set(found["estimate"]["terms_ms"]) == {
        "experts", "other_weights", "attention", "state", "overhead"
    }  # fmt: skip
    assert found["supported"] is True


def test_a_refused_plan_is_json_too_and_exits_3(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capsys, "plan", "--gpu", "a100", "--quant", "fp8", "--json")
    assert code == 3
    found = json.loads(out)
    assert found["supported"] is False
    assert found["quant"] == {"requested": "fp8", "effective": None}
    code, out, _ = answer(capsys, "plan", "--gpu", "a100", "--quant", "fp8")
    assert code == 3
    assert "SM80" in out


def test_views_are_plain_text_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["inspect"], ["inspect", "--checkpoint", "tiny"], ["doctor"],
        ["plan", "--gpu", "h100", "--quant", "int4"], ["plan", "--gpu", "l4", "--quant", "int4"],
    ):  # fmt: skip
        _, out, _ = answer(capsys, *arguments)
        assert out.strip()
        assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plan", "--gpu", "h1000", "--quant", "int4"], 2, "unknown GPU 'h1000'; known are h100"),
        (["plan", "--gpu", "h100", "--quant", "int3"], 2, "unknown format 'int3'; known are bf16"),
        (["build", "--gpu", "h100"], 2, "missing option '--quant'"),
        (["plan", "--gpu", "h100", "--quant", "int4", "--gpus", "0"], 2, "--gpus"),
        (["frobnicate"], 2, "unknown command 'frobnicate'"),
        (["inspect", "--checkpoint", "/nowhere"], 4, "/nowhere: no such directory"),
        (["build", "--gpu", "a100", "--quant", "fp8", "--checkpoint", "tiny"], 3, "fp8-sm89"),
        (["build", "--gpu", "h100", "--quant", "int4"], 4, "hf download"),
        (["quantize", "--quant", "fp8", "--out", "/tmp/x", "--layout", "compressed-tensors"], 3,
         "rule: layout"),
        (["verify", "/nowhere"], 4, "no bundle here"),
        (["serve", "/nowhere"], 4, "no bundle here"),
        (["serve", "/nowhere", "--trace-config", "on"], 2, "--trace-config 'on' is not a setting"),
        (["serve", "/nowhere", "--executor", "scripted"], 2, "scripted needs --script FILE"),
        (["serve", "/nowhere", "--script", "x"], 2, "is for the executor scripted, not for auto"),
        (["serve", "/nowhere", "--executor", "scripted", "--script", "/none.jsonl"], 4,
         "/none.jsonl: cannot be read: No such file"),
        (["serve", "/nowhere", "--executor", "scripted", "--script", __file__], 4,
         "test_cli.py:1: not readable as JSON"),
        (["loadtest", "http://localhost:9"], 4, "no server answers at http://localhost:9"),
        (["loadtest", "http://localhost:9/metrics"], 2, "has the path /metrics"),
        (["loadtest", "no/such/bundle"], 2, "grpc://host:port"),
        (["loadtest", "grpc://127.0.0.1:9"], 4, "127.0.0.1:9"),
        (["loadtest", "grpc://x:1", "--concurrency", "many"], 2, "whole numbers"),
        (["loadtest", "grpc://x:1", "--slo", "fast"], 2, "fast"),
        (["loadtest", "grpc://x:1", "--find-max"], 2, "--slo"),
        (["loadtest", "grpc://x:1", "--until", "itl_p99<5%"], 2, "--until 'itl_p99<5%'"),
        (["loadtest", "grpc://x:1", "--definitions", "vllm"], 2, "--definitions 'vllm'"),
        (["loadtest", "grpc://127.0.0.1:9", "--metrics-url", "x:1"], 2, "--metrics-url 'x:1'"),
        (["loadtest", "grpc://127.0.0.1:9", "--metrics-url", "http://8.8.8.8"], 3, "8.8.8.8"),
        (["loadtest", "grpc://8.8.8.8:8001"], 3, "--yes-this-is-mine"),
        (["loadtest", "grpc://169.254.169.254:80", "--yes-this-is-mine"], 3, "link-local"),
        (["loadtest", "compare", "/no/a.json", "/no/b.json"], 4, "/no/a.json: No such file"),
        (["loadtest", "grpc://x:1", "--save", "a.pdf"], 2, "--save a.pdf: the suffix names"),
        (["loadtest", "grpc://x:1", "--save", "/no/a.html"], 4, "there is no directory /no"),
        (["loadtest", "report", "/no/a.json", "--save", "a.html"], 4, "/no/a.json: No such file"),
        (["loadtest", "report", "/dev/null", "--save", "a.html"], 4, "cannot be used as a report"),
        (["loadtest", "report", "a.json"], 2, "--save"),
    ],
)  # fmt: skip
def test_errors_are_one_message_and_a_code(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    found, out, err = answer(capsys, *arguments)
    assert found == code
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert not out


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = answer(capsys, "--debug", "inspect", "--checkpoint", "/nowhere")
    assert code == 4
    assert "Traceback" in err


def test_quantize_and_build_by_hand(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "quantized"
    arguments = ["quantize", "--checkpoint", "tiny", "--quant", "int4", "--out", str(out)]
    record = document(capsys, *arguments)
    assert record["tensors"] == 78
    code, _, err = answer(capsys, *arguments)
    assert (code, "already holds something" in err) == (4, True)
    found = document(capsys, "inspect", "--checkpoint", str(out))
    assert found["quantization"] == "W4A16_AWQ"
    assert found["bytes"] == record["written_bytes"]
    built = tmp_path / "bundle"
    arguments = ["build", "--checkpoint", "tiny", "--gpu", "h100", "--quant", "int4"]
    code, shown, progress = answer(capsys, *arguments, "--out", str(built))
    assert code == 0
    assert "nemo-deploy deploy" in shown
    assert "Kubernetes manifests" in progress
    code, shown, _ = answer(capsys, *arguments, "--out", str(built))
    assert "nothing was done" in shown
    verified = document(capsys, "verify", str(built))
    assert verified["ok"] is True
    (built / "engine" / "llm_args.yaml").write_text("x: 1\n")
    code, shown, _ = answer(capsys, "verify", str(built), "--json")
    assert code == 5
    wrong = [check["name"] for check in json.loads(shown)["checks"] if not check["ok"]]
    assert wrong == ["digests", "llm_args.yaml"]


def test_a_build_into_something_else_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    arguments = ["build", "--checkpoint", "tiny", "--gpu", "h100", "--quant", "int4"]
    code, _, err = answer(capsys, *arguments, "--out", str(tmp_path))
    assert code == 4
    assert "notes.txt" in err


HEAVY = "torch|transformers|tritonclient|numpy|kubernetes_validate|modelopt|grpc|jsonschema|yaml"


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--gpu", "h100", "--quant", "int4"]])
def test_quick_commands_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from nemotron_deploy.cli import run; code = run(sys.argv[1:]); "
        f"heavy = set('{HEAVY}'.split('|')) & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_brackets_in_messages_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemotron_deploy.api import doctor

    monkeypatch.setattr(doctor, "_version", lambda name: None)
    _, out, _ = answer(capsys, "doctor")
    assert "nemotron-deploy[quantize]" in out


def test_a_missing_package_is_named_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from nemotron_deploy.core import extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    for words, extra in ((["quantize"], "quantize"), (["build", "--gpu", "h100"], "kernels")):
        arguments = [*words, "--checkpoint", "tiny", "--quant", "int4"]
        code, _, err = answer(capsys, *arguments, "--out", str(tmp_path / "out"))
        assert code == 4
        assert f"pip install 'nemotron-deploy[{extra}]'" in err
        assert not list(tmp_path.iterdir())
