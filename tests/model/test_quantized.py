"""Checkpoints that are quantized already: what they are is told by their tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemotron_deploy.api.inspect import inspect
from nemotron_deploy.api.plan import plan
from nemotron_deploy.cli import run
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.quantize.takeover import takeover
from nemotron_deploy.tests.model.bent import Case, both, config, without
from nemotron_deploy.tests.model.quantized_cases import (
    FP8_FILES,
    NVIDIA,
    REFUSED,
    TAKEN_OVER,
    encoded,
    experts,
    fp8,
    llm_compressor,
    modelopt,
    packed,
)


def title(case: Case) -> str:
    return case.title


@pytest.mark.parametrize("case", TAKEN_OVER, ids=title)
def test_inspect_says_what_it_is(case: Case, tiny_copy: Path) -> None:
    case.make(tiny_copy)
    result = inspect(str(tiny_copy))
    assert result.quantized is not None
    assert case.says in "\n".join((result.quantized, *result.notes))
    assert result.differences == ()
    assert result.bytes == Checkpoint.open(tiny_copy).bytes


@pytest.mark.parametrize("case", TAKEN_OVER, ids=title)
def test_it_is_not_quantized_again(
    case: Case, tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.make(tiny_copy)
    out = tmp_path / "out"
    arguments = ["--quant", "int4", "--checkpoint", str(tiny_copy), "--out", str(out)]
    assert run(["quantize", *arguments]) == 4
    assert "is already quantized; it is" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("command", ["inspect", "plan", "build", "quantize"])
@pytest.mark.parametrize("case", REFUSED, ids=title)
def test_every_command_refuses_alike(
    case: Case, command: str, tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.make(tiny_copy)
    out = tmp_path / "out"
    options = {
        "inspect": [],
        "plan": ["--gpu", "h100"],
        "build": ["--gpu", "h100", "--out", str(out)],
        "quantize": ["--quant", "int4", "--out", str(out)],
    }
    assert run([command, "--checkpoint", str(tiny_copy), *options[command]]) == 4
    assert case.says in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("case", TAKEN_OVER, ids=title)
def test_a_plan_counts_what_a_bundle_holds(case: Case, tiny_copy: Path) -> None:
    case.make(tiny_copy)
    checkpoint = Checkpoint.open(tiny_copy)
    assert checkpoint.quantization is not None
    planned = plan(str(tiny_copy), gpu="h100", context=4096)
    assert planned.weights_bytes == takeover(checkpoint).written_bytes
    if checkpoint.quantization.layout == "modelopt":
        assert planned.weights_bytes == checkpoint.bytes
    assert f"quantized already: {checkpoint.quantization.summary}" in planned.notes[0]
    assert planned.layers == checkpoint.quantization.recipe.summary


def test_a_plan_says_what_becomes_of_another_layout(tiny_copy: Path) -> None:
    both(encoded(experts, packed), llm_compressor())(tiny_copy)
    planned = plan(str(tiny_copy), gpu="h100", context=4096)
    assert planned.quant["requested"] == "int4"
    assert "not quantized again" in "\n".join(planned.notes)


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (["--quant", "int4"], "--quant int4"),
        (["--quant", "bf16"], "--quant bf16"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "build"])
def test_contradicting_it_is_refused(
    command: str,
    options: list[str],
    given: str,
    tiny_copy: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    both(NVIDIA, FP8_FILES, config(_name_or_path="nvidia/original-BF16"))(tiny_copy)
    assert run([command, "--gpu", "h100", "--checkpoint", str(tiny_copy), *options]) == 3
    error = capsys.readouterr().err
    assert f"{given} cannot be had from {tiny_copy} (rule: quantized-already)" in error
    assert "use the unquantized original, nvidia/original-BF16" in error


def test_its_own_format_may_be_given(tiny_copy: Path) -> None:
    both(NVIDIA, FP8_FILES)(tiny_copy)
    assert plan(str(tiny_copy), gpu="h100", quant="fp8", context=4096).supported


def test_what_works_instead_is_its_own_format_elsewhere(tiny_copy: Path) -> None:
    both(NVIDIA, FP8_FILES)(tiny_copy)
    planned = plan(str(tiny_copy), gpu="a100", context=4096)
    assert planned.refused
    assert planned.alternatives
    assert not any("int4" in text or "bf16" in text for text in planned.alternatives)


def test_a_matrix_has_its_format_alone(tiny_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both(NVIDIA, FP8_FILES)(tiny_copy)
    arguments = ["--matrix", "--context", "4096", "--checkpoint", str(tiny_copy), "--json"]
    assert run(["plan", *arguments]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert {cell["quant"] for cell in cells} == {"fp8"}


def test_a_missing_matrix_is_named(tiny_copy: Path) -> None:
    name = "backbone.layers.4.mixer.experts.3.up_proj.weight"
    both(encoded(experts, fp8), modelopt("FP8"), without(lambda n: n == name))(tiny_copy)
    assert f"tensor {name} is missing" in Checkpoint.open(tiny_copy).differences[-1]


def test_a_build_without_a_format_needs_a_quantized_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["build", "--gpu", "h100"]) == 2
    assert "missing option '--quant'" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--calibration", "--heldout", "--smooth"])
def test_options_of_quantizing_have_no_effect(
    option: str, tiny_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both(NVIDIA, FP8_FILES)(tiny_copy)
    value = [] if option == "--smooth" else [str(tiny_copy / "tokenizer.json")]
    arguments = ["--gpu", "h100", "--checkpoint", str(tiny_copy), "--context", "4096"]
    assert run(["build", *arguments, option, *value]) == 2
    assert f"{option} has no effect here" in capsys.readouterr().err
