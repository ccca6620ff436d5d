from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemotron_deploy import k8s
from nemotron_deploy.model import catalog
from nemotron_deploy.model.spec import Deployment
from nemotron_deploy.runtime.contract import VLLM_SETTINGS

from .releases import release

IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
VLLM_IMAGE = "nvcr.io/nvidia/tritonserver:26.08-vllm-python-py3"


def _deployment(gpu: str, quant: str, gigabytes: float) -> Deployment:
    return Deployment(
        name=f"nemotron-3-nano-30b-a3b-{gpu}-{quant}",
        model_name="nemotron-3-nano-30b-a3b",
        image=IMAGE,
        gpu=catalog.gpu(gpu),
        gpus=1,
        quant=quant,
        bundle_bytes=int(gigabytes * 1e9),
        executor="trtllm",
        max_batch_size=64,
        env={"TLLM_LOG_LEVEL": "warning"},
    )


@pytest.fixture(scope="session")
def deployments() -> dict[str, Deployment]:
    made = (_deployment("h100", "int4", 19.3), _deployment("a100", "bf16", 63.2))
    vllm = replace(
        _deployment("a100", "int4", 19.3), executor="vllm", image=VLLM_IMAGE, env=VLLM_SETTINGS
    )
    return {f"{d.gpu.key}-{d.quant}": d for d in made} | {"a100-int4-vllm": vllm}


@pytest.fixture
def h100(deployments: dict[str, Deployment]) -> Deployment:
    return deployments["h100-int4"]


@pytest.fixture
def emit(tmp_path: Path, h100: Deployment) -> Callable[..., Path]:
    """Write a tree for the H100 deployment with some fields changed, and with `options`."""

    def write(options: Mapping[str, Any] | None = None, **changes: Any) -> Path:
        dest = tmp_path / "k8s"
        shutil.rmtree(dest, ignore_errors=True)
        dest.mkdir()
        k8s.emit(dest, release(replace(h100, **changes), **(options or {})))
        return dest

    return write


@pytest.fixture
def objects() -> Callable[..., dict[str, Any]]:
    """The objects of a rendered variant by kind; of several, the first by name."""

    def read(tree: Path, variant: str = "default") -> dict[str, Any]:
        text = (tree / "rendered" / f"{variant}.yaml").read_text(encoding="utf-8")
        documents = list(yaml.load_all(text, Loader=yaml.CSafeLoader))
        return {document["kind"]: document for document in reversed(documents)}

    return read


@pytest.fixture
def kubectl() -> str:
    """kubectl's path; the test is skipped where there is none."""
    return shutil.which("kubectl") or pytest.skip("no kubectl on the PATH")
