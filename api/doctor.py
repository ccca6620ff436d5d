"""`doctor`: what this machine can and cannot do."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from ..model.catalog import DEFAULT_CHECKPOINT, known_model
from ..model.recipe import RECIPES

PACKAGES: Final = {
    "torch": "quantize",
    "transformers": "quantize",
    "nvidia-modelopt": "quantize",
    "triton": "kernels",
    "nvidia-pytriton": "local",
    "tritonclient": "",
    "kubernetes-validate": "",
    "tensorrt-llm": "engine",
}
"""Distributions a room needs, and the extra that installs each."""


def doctor() -> dict[str, Any]:
    """What was found, and for each thing a user may want to do whether it works here and why not.

    `abilities` is a list of {`name`, `ok`, `detail`}; nothing is imported or changed.
    """
    packages = {name: _version(name) for name in PACKAGES}
    gpus = _gpus()
    kubectl = shutil.which("kubectl")
    memory, disk = _memory_bytes(), shutil.disk_usage(Path.cwd()).free
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "disk_free_bytes": disk,
        "gpus": gpus,
        "kubectl": kubectl,
        "packages": packages,
        "abilities": [
            _ability("inspect, plan", {}, "need nothing beyond the base install"),
            _ability("quantize to INT4", _missing(packages, "torch"), "streams tensor by tensor"),
            _ability(
                "quantize to FP8",
                _missing(packages, "torch", "transformers", "nvidia-modelopt"),
                "calibrates with one layer in memory (2.6 GB for Nano's largest)",
            ),
            _ability(
                "compile INT4 kernels",
                _missing(packages, "triton"),
                "for SM80, SM86, SM89 and SM90, without a GPU",
            ),
            _local_serving(),
            {
                "name": "serve with TensorRT-LLM",
                "ok": bool(gpus) and packages["tensorrt-llm"] is not None,
                "detail": "; ".join(gpus) if gpus else "no NVIDIA GPU here (nvidia-smi found none)",
            },
            {
                "name": "render and apply manifests",
                "ok": kubectl is not None,
                "detail": kubectl or "no kubectl; bundles hold rendered YAML as well",
            },
            _default_model_space(disk),
        ],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _missing(packages: dict[str, str | None], *names: str) -> dict[str, str]:
    """Packages that are not installed, with the extra that brings them."""
    return {name: PACKAGES[name] for name in names if packages[name] is None}


def _ability(name: str, missing: dict[str, str], detail: str) -> dict[str, Any]:
    if not missing:
        return {"name": name, "ok": True, "detail": detail}
    extra = next(iter(missing.values()))
    how = f"missing: {', '.join(missing)}; pip install 'nemotron-deploy[{extra}]'"
    return {"name": name, "ok": False, "detail": how}


def _local_serving() -> dict[str, Any]:
    from ..triton_repo.local import unavailable

    reason = unavailable()
    return {
        "name": "serve without a GPU",
        "ok": reason is None,
        "detail": reason or "tritonserver with the reference executor, on the CPU",
    }


def _default_model_space(free: int) -> dict[str, Any]:
    model = known_model(DEFAULT_CHECKPOINT)
    assert model is not None, "the default checkpoint's configuration is packaged"
    needed = model.bytes + RECIPES["int4"].weights_bytes(model)
    detail = (
        f"{model.bytes / 1e9:.0f} GB of weights and {(needed - model.bytes) / 1e9:.0f} GB of "
        f"result; {free / 1e9:.0f} GB are free in this directory"
    )
    return {"name": "disk for Nemotron 3 Nano to INT4", "ok": free >= needed, "detail": detail}


def _gpus() -> list[str]:
    """Names and memory of the GPUs the driver reports."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
