"""NVFP4 with NVFP4 inputs (W4A4), as NVIDIA publishes it: where it runs, and what works instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nemotron_deploy.api.build import prepare
from nemotron_deploy.api.plan import plan
from nemotron_deploy.core.errors import RefusedError
from nemotron_deploy.model.architecture import Role
from nemotron_deploy.model.format_request import requested
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.tests.build.nano import nano
from nemotron_deploy.tests.model.bent import Maker, both
from nemotron_deploy.tests.model.quantized_cases import (
    encoded,
    experts,
    modelopt,
    nvfp4,
    nvfp4_inputs,
)

NVFP4_NAME = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4"

WITH_INPUTS = both(encoded(experts, nvfp4_inputs), modelopt("NVFP4"))
WEIGHTS_ONLY = both(encoded(experts, nvfp4), modelopt("W4A16_NVFP4"))


@pytest.mark.parametrize(
    ("gpu", "trtllm", "status", "rule"),
    [
        ("b200", None, "supported", "nvfp4-w4a4"),
        ("rtx-5090", None, "supported", "nvfp4-w4a4-sm120"),
        ("rtx-pro-6000", None, "supported", "nvfp4-w4a4-sm120"),
        ("dgx-spark", None, "supported", "nvfp4-w4a4-sm120"),
        ("b200", "1.3.0rc24", "needs", "nvfp4-w4a4-image"),
        ("h100", "1.3.0rc24", "needs", "nvfp4-w4a4-marlin"),
        ("l40s", "1.3.0rc24", "needs", "nvfp4-w4a4-marlin"),
        ("h100", None, "refused", "nvfp4-w4a4-hopper"),
        ("a100", None, "refused", "nvfp4-sm89"),
        ("a100", "1.3.0rc24", "refused", "nvfp4-sm89"),
    ],
)
def test_where_nvidias_own_checkpoint_runs(
    gpu: str, trtllm: str | None, status: str, rule: str
) -> None:
    result = plan(NVFP4_NAME, gpu=gpu, trtllm=trtllm, context=4096)
    assert (result.status, result.rule) == (status, rule)
    assert "W4A4" in result.layers
    assert "{sm}" not in result.reasons[0]
    backend = result.llm_args.get("moe_config", {}).get("backend")
    assert backend == {"nvfp4-w4a4-marlin": "MARLIN"}.get(
        rule, None if "ref" in status else "CUTLASS"
    )
    if status == "refused":
        assert not any("--quant" in text for text in result.alternatives)


@pytest.mark.parametrize("trtllm", [None, "1.3.0rc24"])
@pytest.mark.parametrize("gpu", ["h100", "a100"])
def test_what_works_instead_is_so(gpu: str, trtllm: str | None) -> None:
    result = plan(NVFP4_NAME, gpu=gpu, trtllm=trtllm, context=4096)
    commands = [text.split() for text in result.alternatives if text.startswith("--")]
    assert commands
    for words in commands:
        options = dict(zip(words[::2], words[1::2], strict=True))
        other = plan(
            NVFP4_NAME,
            gpu=options.get("--gpu", gpu),
            gpus=int(options.get("--gpus", 1)),
            engine=options.get("--engine", "tensorrt-llm"),
            trtllm=options.get("--trtllm", None if "--engine" in options else trtllm),
            context=4096,
        )
        assert other.buildable


def test_the_weights_alone_are_refused_where_both_run(tiny_copy: Path) -> None:
    WEIGHTS_ONLY(tiny_copy)
    result = plan(str(tiny_copy), gpu="b200", context=4096)
    assert (result.status, result.rule) == ("refused", "nvfp4-sm100")
    assert "without NVFP4 inputs" in result.reasons[0]


@pytest.mark.parametrize(
    ("make", "gpu", "rule"),
    [(WITH_INPUTS, "h100", "nvfp4-w4a4-hopper"), (WEIGHTS_ONLY, "b200", "nvfp4-sm100")],
)
def test_a_build_follows_the_plan(make: Maker, gpu: str, rule: str, tiny_copy: Path) -> None:
    make(tiny_copy)
    with pytest.raises(RefusedError, match=rf"rule: {rule}"):
        prepare(str(tiny_copy), gpu, None, Workload(context=4096))


def test_a_build_for_blackwell_takes_it_over(tiny_copy: Path) -> None:
    WITH_INPUTS(tiny_copy)
    job = prepare(str(tiny_copy), "b200", None, Workload(context=4096))
    assert job.plan.rule == "nvfp4-w4a4"
    assert job.options.taken_over


def test_a_scale_of_inputs_is_one_number_more_for_each_matrix() -> None:
    model = nano()
    recipe = requested("nvfp4", "conservative").for_model(model).recipe
    matrices = sum(
        group.count for group in model.tensors() if group.role in (Role.EXPERT, Role.SHARED_EXPERT)
    )
    wider = replace(recipe, choices=recipe.with_nvfp4_inputs().choices)
    assert wider.weights_bytes(model) - recipe.weights_bytes(model) == 4 * matrices
