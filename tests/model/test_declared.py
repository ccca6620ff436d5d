"""What is declared of a quantized checkpoint whose weights are not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemotron_deploy.api.inspect import inspect
from nemotron_deploy.api.plan import plan
from nemotron_deploy.cli import run
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.module_patterns import PatternError, globs_of, matches
from nemotron_deploy.tests.model.bent import SINGLE, Case, Maker, both, config
from nemotron_deploy.tests.model.quantized_cases import (
    EXCLUDED,
    FP8_FILES,
    NVIDIA,
    TAKEN_OVER,
    hf_quant_config,
    llm_compressor,
    modelopt,
)

FP8_NAME = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8"


def title(case: Case) -> str:
    return case.title


def without_weights(path: Path) -> None:
    (path / SINGLE).unlink()


TRUE_FILES = [
    case
    for case in TAKEN_OVER
    if not any(word in case.title for word in ("The same", "said to have")) or "W4A16" in case.title
]
"""Cases whose configuration says all of what the tensors are."""


@pytest.mark.parametrize("case", TRUE_FILES, ids=title)
def test_a_plan_without_the_weights_is_that_with_them(case: Case, tiny_copy: Path) -> None:
    case.make(tiny_copy)
    quantization = Checkpoint.open(tiny_copy).quantization
    assert quantization is not None
    whole = plan(str(tiny_copy), gpu="h100", context=4096)
    shown = inspect(str(tiny_copy))
    without_weights(tiny_copy)
    planned = plan(str(tiny_copy), gpu="h100", context=4096)
    assert planned.layers == whole.layers
    assert planned.quant == whole.quant
    assert planned.kv_dtype == whole.kv_dtype
    assert "(declared; the tensors were not read)" in planned.notes[0]
    declared = inspect(str(tiny_copy))
    assert declared.quantized == f"{shown.quantized} (declared; the tensors were not read)"
    if quantization.layout == "modelopt":
        assert planned.weights_bytes == declared.bytes == pytest.approx(shown.bytes, rel=1e-3)
        assert declared.tensors == shown.tensors


def test_either_file_declares(tiny_copy: Path) -> None:
    hf_quant_config("FP8", EXCLUDED, kv_cache_quant_algo="FP8")(tiny_copy)
    without_weights(tiny_copy)
    by_modelopt = inspect(str(tiny_copy / "config.json")).quantized
    assert by_modelopt is not None
    assert by_modelopt.startswith("FP8 by ModelOpt 0.40.0: routed experts")
    assert "KV cache FP8" in by_modelopt


@pytest.mark.parametrize("command", ["plan", "build"])
def test_contradicting_it_is_refused(
    command: str, tiny_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both(FP8_FILES, config(_name_or_path="nvidia/original-BF16"), without_weights)(tiny_copy)
    arguments = ["--gpu", "h100", "--checkpoint", str(tiny_copy), "--quant", "int4"]
    assert run([command, *arguments]) == 3
    error = capsys.readouterr().err
    assert f"--quant int4 cannot be had from {tiny_copy} (rule: quantized-already)" in error
    assert "use the unquantized original, nvidia/original-BF16" in error


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (config(quantization_config={"quant_method": "gptq", "bits": 4}), "quantized by GPTQ"),
        (config(quantization_config={"quant_method": "fp8"}), "quantized by fp8"),
        (modelopt("FP8_PB_WO"), "FP8_PB_WO"),
        (modelopt("W4A16_AWQ", pre_quant_scale=True), "AWQ with scales of inputs"),
        (modelopt("W4A16_AWQ", group_size=16), "known are groups of 32, 64, 128"),
        (llm_compressor(symmetric=False), "asymmetric integers"),
        (llm_compressor(actorder="group"), "act-order"),
        (llm_compressor("int-quantized", True, num_bits=8), "integers with quantized inputs"),
        (llm_compressor("nvfp4-pack-quantized", type="float"), "NVFP4 in the layout of"),
        (llm_compressor(num_bits=8, type="float", strategy="block"), "FP8 with a scale for each"),
        (llm_compressor(num_bits=8, type="float", strategy="tensor"), "FP8 without scales of"),
        (llm_compressor(num_bits=3), "weights of 3 bits"),
        (llm_compressor(num_bits="\x1b[31m" * 500), "weights of"),
        (llm_compressor(strategy=["group"], group_size=10**300, type=[4]), "weights of 4 bits"),
        (
            modelopt("FP8", quant_algo=[], config_groups=[7], ignore={"a": 1}, producer=[]),
            "without a known format",
        ),
    ],
)
@pytest.mark.parametrize("command", ["plan", "inspect"])
def test_what_cannot_be_used_is_refused(
    make: Maker, says: str, command: str, tiny_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both(make, without_weights)(tiny_copy)
    gpu = ["--gpu", "h100"] if command == "plan" else []
    assert run([command, "--checkpoint", str(tiny_copy), *gpu]) == 4
    error = " ".join(capsys.readouterr().err.split())
    assert says in error
    assert "use the unquantized (BF16) original" in error


@pytest.mark.parametrize("value", [None, {}])
def test_an_empty_entry_declares_nothing(value: object, tiny_copy: Path) -> None:
    both(config(quantization_config=value), without_weights)(tiny_copy)
    assert inspect(str(tiny_copy)).quantized is None


def test_a_published_format_is_planned_and_shown() -> None:
    planned = plan(FP8_NAME, gpu="h100", context=4096)
    assert planned.quant["requested"] == "fp8"
    assert "published in this format; the tensors were not read" in planned.notes[0]
    shown = inspect(FP8_NAME)
    assert shown.bytes == planned.weights_bytes
    assert shown.quantized is not None
    assert shown.quantized.startswith("FP8 by NVIDIA: ")


def test_contradicting_a_published_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--checkpoint", FP8_NAME, "--gpu", "h100", "--quant", "int4"]) == 3
    error = " ".join(capsys.readouterr().err.split())
    assert f"--quant int4 cannot be had from {FP8_NAME} (rule: quantized-already)" in error
    assert "use the unquantized original, nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16" in error


def test_a_matrix_has_the_published_format_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--matrix", "--checkpoint", FP8_NAME, "--json"]) == 0
    assert {cell["quant"] for cell in json.loads(capsys.readouterr().out)["cells"]} == {"fp8"}


@pytest.mark.parametrize(
    ("pattern", "name", "matched"),
    [
        ("lm_head", "lm_head", True),
        ("re:.*mixer.gate$", "backbone.layers.1.mixer.gate", True),
        ("re:.*mixer.gate$", "backbone.layers.1.mixer.gate_proj", False),
        (r"re:.*(in|out|q|k|v|o)_proj$", "backbone.layers.0.mixer.out_proj", True),
        (r"re:.*(in|out|q|k|v|o)_proj$", "backbone.layers.0.mixer.up_proj", False),
        (
            r"re:.*layers\.(1|4)\.mixer\.experts\.\d+\.up_proj$",
            "layers.4.mixer.experts.12.up_proj",
            True,
        ),
        (
            r"re:.*layers\.(1|4)\.mixer\.experts\.\d+\.up_proj$",
            "layers.2.mixer.experts.12.up_proj",
            False,
        ),
        (r"re:(.*\.)?mtp\..*", "mtp.layers.0", True),
        (r"re:(.*\.)?mtp\..*", "model.mtp.layers.0", True),
        ("re:.*vision.*", "model.vision_tower.proj", True),
    ],
)
def test_patterns_of_modules(pattern: str, name: str, matched: bool) -> None:
    assert matches(name, globs_of(pattern)) is matched


@pytest.mark.parametrize(
    "pattern", ["re:(a+)+$", "re:[ab]c", "re:" + "(" * 10_000, "re:a|)", "re:" + "(a|b)" * 12]
)
def test_patterns_that_are_not_read(pattern: str, tiny_copy: Path) -> None:
    with pytest.raises(PatternError):
        globs_of(pattern)


def test_a_pattern_that_is_not_read_is_no_matter_beside_the_tensors(
    tiny_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = next(case for case in TAKEN_OVER if "W4A16" in case.title)
    case.make(tiny_copy)
    document = json.loads((tiny_copy / "config.json").read_text())
    document["quantization_config"]["ignore"] += ["re:(x+)+y"]
    (tiny_copy / "config.json").write_text(json.dumps(document))
    assert Checkpoint.open(tiny_copy).quantization is not None
    without_weights(tiny_copy)
    assert run(["inspect", "--checkpoint", str(tiny_copy)]) == 4
    assert "modules by the pattern" in capsys.readouterr().err


def test_a_whole_checkpoint_is_read_not_believed(tiny_copy: Path) -> None:
    both(NVIDIA, modelopt("W4A16_NVFP4"))(tiny_copy)
    assert plan(str(tiny_copy), gpu="h100", context=4096).quant["requested"] == "fp8"
