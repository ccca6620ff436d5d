"""Arguments are those that TensorRT-LLM knows, and the engine directory holds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nemotron_deploy.build.engines.registry import check as check_engine
from nemotron_deploy.build.engines.tensorrt_llm import arguments, support
from nemotron_deploy.build.engines.tensorrt_llm.directory import FILES
from nemotron_deploy.tests.build.nano import planned

GOLDEN = Path(__file__).parent / "golden"
STABLE = ">=1.2.1,<1.3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_batchsize": 8}, "max_batchsize"),
        ({"max_batch_size": "8"}, "max_batch_size: '8' is not of type"),
        ({"kv_cache_config": {"enable_reuse": True}}, "enable_reuse"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 1.5}}, "1.5 is greater than the maximum"),
        ({"moe_config": {"backend": "MARLINN"}}, "moe_config.backend"),
        ({"load_format": 3}, "load_format"),
    ],
)
def test_wrong_llm_arguments_are_found(change: dict[str, object], message: str) -> None:
    good = planned("h100", "int4").engine.args
    assert arguments.problems(good, STABLE) == []
    assert message in " ".join(arguments.problems({**good, **change}, STABLE))


def test_emitted_arguments_exist_in_the_stable_release() -> None:
    schema = json.loads((arguments.SCHEMAS / support.schema_name(STABLE)).read_text())
    for name in planned("h100", "fp8").engine.args:
        assert schema["properties"][name].get("x-in-1.2"), name


def test_traps_of_upstream_are_avoided() -> None:
    args = planned("h100", "bf16").engine.args
    assert args["trust_remote_code"] is False
    assert args["kv_cache_config"]["enable_block_reuse"] is False  # unsupported with Mamba state
    assert args["max_batch_size"] <= 64  # the default of 2048 runs out of Mamba slots
    assert "torch_compile_config" not in args  # piecewise graphs with chunked prefill gave NaN


@pytest.mark.parametrize(
    ("key", "quant"), [("h100", "int4"), ("a100", "int8"), ("h100", "fp8"), ("a100", "bf16")]
)
def test_engine_directory(
    tmp_path: Path, golden: Callable[[Path, str], None], key: str, quant: str
) -> None:
    FILES.emit(tmp_path, planned(key, quant))
    for name in ("engine.json", "llm_args.yaml"):
        golden(GOLDEN / f"{key}-{quant}" / name, (tmp_path / name).read_text())
    wrong = {check.name for check in check_engine(tmp_path) if not check.ok}
    sm = {"h100": 90, "a100": 80}[key]
    assert wrong == ({"plugin", f"kernels sm_{sm}"} if quant.startswith("int") else set())


@pytest.mark.parametrize("text", ["max_batchsize: 3", "[1]", "a: [", ""])
def test_a_damaged_engine_directory_fails_its_check(tmp_path: Path, text: str) -> None:
    FILES.emit(tmp_path, planned("h100", "fp8"))
    (tmp_path / "llm_args.yaml").write_text(text)
    assert not all(check.ok for check in check_engine(tmp_path))


def test_llm_args_are_yaml_that_upstream_reads(tmp_path: Path) -> None:
    result = planned("h100", "int4")
    FILES.emit(tmp_path, result)
    assert yaml.safe_load((tmp_path / "llm_args.yaml").read_text()) == dict(result.engine.args)
