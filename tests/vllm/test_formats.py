"""Every format and layout that is written for vLLM, read by a real vLLM.

Its own configuration, quantization methods and weight loaders run, and the production executor;
`plain_experts` computes the products that its CPU build lacks. Outputs are held to the bundle's
golden outputs, which the reference recorded from the same quantized weights.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

PLUGIN = Path(__file__).with_name("plain_experts")
PATIENCE_S = 900

Prove = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def built_bundles(vllm_bundle: Callable[[str, str, str], Path]) -> Callable[[str], Path]:
    """The bundle of `tiny` in a format, built once."""
    built: dict[str, Path] = {}

    def once(quant: str) -> Path:
        if quant not in built:
            built[quant] = vllm_bundle("tiny", "h100", quant)
        return built[quant]

    return once


@pytest.fixture(scope="session")
def prove(vllm_python: str, vllm_environment: dict[str, str]) -> Prove:
    """What a warm-up with vLLM says of a bundle's golden outputs."""

    def run(bundle: Path, **environment: str) -> dict[str, Any]:
        (package,) = (bundle / "model_repository").glob("*/1")
        paths = os.pathsep.join(map(str, (package, PLUGIN)))
        done = subprocess.run(
            [vllm_python, "-m", "nemo_deploy_runtime.warmup", str(bundle), "vllm"],
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=True,
            env=vllm_environment | {"PYTHONPATH": paths} | environment,
        )
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert "golden" in answer, answer
        golden: dict[str, Any] = answer["golden"]
        assert golden["action"] == "checked"
        print(f"{bundle.parent.name}: {golden['comparison']}")
        return golden

    return run


@pytest.mark.parametrize("quant", ["bf16", "fp8", "int4", "int8"])
def test_a_format_is_read_as_it_was_written(
    built_bundles: Callable[[str], Path], prove: Prove, quant: str
) -> None:
    golden = prove(built_bundles(quant))
    assert golden["faults"] == []
    assert golden["comparison"]["positions"] >= 500


def test_scales_of_one_expert_are_noticed(
    built_bundles: Callable[[str], Path], prove: Prove, tmp_path: Path
) -> None:
    """Twice as large, in one of its 36 matrices of a layer."""
    bundle = _copy(built_bundles("int4"), tmp_path)
    shard = bundle / "checkpoint" / "model.safetensors"
    tensors = load_file(shard)
    tensors["backbone.layers.1.mixer.experts.0.up_proj.weight_scale"] *= 2
    save_file(tensors, shard, metadata={"format": "pt"})
    assert prove(bundle)["faults"]


def test_experts_in_the_wrong_place_are_noticed(
    built_bundles: Callable[[str], Path],
    prove: Prove,
    tmp_path: Path,
    exchange_experts: Callable[[Path], None],
) -> None:
    bundle = _copy(built_bundles("fp8"), tmp_path)
    exchange_experts(bundle)
    assert prove(bundle)["faults"]


def test_an_expert_kernel_that_is_wrong_is_noticed(
    built_bundles: Callable[[str], Path], prove: Prove
) -> None:
    """As in vllm-project/vllm #52308: the checkpoint is right and the text fluent, but a backend of
    the experts is wrong. Here it leaves one of the chosen experts out."""
    golden = prove(built_bundles("int4"), PLAIN_EXPERTS_FAULT="last_expert")
    assert golden["faults"]
    assert golden["comparison"]["agreement"] > 0.9, "not fluent"


def _copy(bundle: Path, into: Path) -> Path:
    """A copy whose checkpoint may be changed."""
    return Path(shutil.copytree(bundle, into / "bundle"))
