"""Bundles for a real vLLM, and the environment in which it runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from nemotron_deploy.api.build import make, prepare
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.spec import Workload

PYTHON = "NEMO_DEPLOY_VLLM"
"""The Python of an environment with vLLM's CPU build and this package (see `make test-vllm`)."""

ARGUMENTS: Mapping[str, Any] = {
    "max_model_len": 4096,
    "max_num_seqs": 4,
    "enforce_eager": True,
    "enable_prefix_caching": False,  # vLLM 0.32's CPU build fails with it
    "mamba_ssm_cache_dtype": "float32",
    "kv_cache_dtype": "bfloat16",  # it has no FP8 cache, which our FP8 checkpoints ask for
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """Skips where there is none."""
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"no vLLM: ${PYTHON} names no Python that has it; see `make test-vllm`")
    return python


@pytest.fixture(scope="session")
def vllm_environment() -> dict[str, str]:
    """For processes with vLLM on two processors. Nothing of pytest's own is in it."""
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return own | {
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` with its shared experts as dense MLPs, and no others: vLLM's CPU build runs it."""
    out = tmp_path_factory.mktemp("dense") / "dense"
    shutil.copytree(TINY, out)
    tensors = load_file(TINY / "model.safetensors")
    kept = {
        name.replace(".shared_experts.", "."): tensor
        for name, tensor in tensors.items()
        if ".mixer.experts." not in name and ".mixer.gate." not in name
    }
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    config["hybrid_override_pattern"] = config["hybrid_override_pattern"].replace("E", "-")
    config["intermediate_size"] = config["moe_shared_expert_intermediate_size"]
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.fixture(scope="session")
def vllm_bundle(
    tmp_path_factory: pytest.TempPathFactory, record_again: Callable[..., None]
) -> Callable[[str, str, str], Path]:
    """Builds the bundle of a checkpoint for a GPU in a format, with arguments for a CPU."""

    def build(checkpoint: str, gpu: str, quant: str) -> Path:
        out = tmp_path_factory.mktemp(quant) / "bundle"
        make(prepare(checkpoint, gpu, quant, Workload(context=4096), out, engine_name="vllm"))
        arguments = out / "engine" / "engine_args.yaml"
        given = yaml.safe_load(arguments.read_text())
        arguments.write_text(yaml.safe_dump({**given, **ARGUMENTS}))
        facts = json.loads((out / "engine" / "engine.json").read_text())
        facts["vllm_versions"] = ">=0.24"
        (out / "engine" / "engine.json").write_text(json.dumps(facts))
        record_again(out, "engine/engine_args.yaml", "engine/engine.json")
        return out

    return build
