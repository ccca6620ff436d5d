"""`doctor`: says what this machine can and cannot do."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar, Final

from ..build.engines.base import Engine
from ..build.engines.registry import ENGINES
from ..core.checks import Check
from ..core.result import Result
from ..core.sizes import size_text
from ..model.catalog import DEFAULT_CHECKPOINT, known_model
from ..model.recipes import CONSERVATIVE

PACKAGES: Final = {
    "torch": "quantize",
    "transformers": "quantize",
    "nvidia-modelopt": "quantize",
    "triton": "kernels",
    "nvidia-pytriton": "local",
    "tritonclient": "",
    "kubernetes-validate": "",
    "tensorrt-llm": "engine",
    "vllm": "",
}
"""Distributions that some commands need, and the extra that installs each."""


@dataclass(frozen=True, slots=True)
class DoctorResult(Result):
    """What this machine can and cannot do.

    Attributes:
        python: Version of Python.
        platform: Operating system and kernel.
        cores: Processor cores; None where the system does not say.
        memory_bytes: Main memory.
        disk_free_bytes: Free space in the current directory.
        gpus: Name and memory of each NVIDIA GPU.
        kubectl: Path of kubectl, if there is one.
        packages: Installed version of each package that some command needs, or None.
        abilities: For each thing a user may want to do, whether it works here and why not.
    """

    SCHEMA: ClassVar[int] = 1

    python: str
    platform: str
    cores: int | None
    memory_bytes: int
    disk_free_bytes: int
    gpus: tuple[str, ...]
    kubectl: str | None
    packages: dict[str, str | None]
    abilities: tuple[Check, ...]


def doctor() -> DoctorResult:
    """Examine this machine; imports and changes nothing."""
    packages = {name: _version(name) for name in PACKAGES}
    gpus = _gpus()
    kubectl = shutil.which("kubectl")
    memory, disk = _memory_bytes(), shutil.disk_usage(Path.cwd()).free
    return DoctorResult(
        python=platform.python_version(),
        platform=platform.platform(),
        cores=os.cpu_count(),
        memory_bytes=memory,
        disk_free_bytes=disk,
        gpus=gpus,
        kubectl=kubectl,
        packages=packages,
        abilities=(
            _ability("inspect, plan", {}, "need nothing beyond the base installation"),
            _ability(
                "quantize to INT4 or INT8",
                _missing(packages, "torch"),
                "processes one tensor after the other",
            ),
            _ability(
                "quantize to FP8",
                _missing(packages, "torch", "transformers", "nvidia-modelopt"),
                "calibrates with one layer in memory (2.6 GB for the largest of Nano)",
            ),
            _ability(
                "compile kernels for INT4 and INT8",
                _missing(packages, "triton"),
                "for SM80, SM86, SM89 and SM90, without a GPU",
            ),
            _local_serving(),
            *(_gpu_serving(make(None), packages, gpus) for make in ENGINES.values()),
            Check(
                "render and apply manifests",
                kubectl is not None,
                kubectl or "no kubectl here; bundles contain rendered YAML as well",
            ),
            _default_model_space(disk),
        ),
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _missing(packages: dict[str, str | None], *names: str) -> dict[str, str]:
    """Packages that are not installed, with the extra that installs each."""
    return {name: PACKAGES[name] for name in names if packages[name] is None}


def _ability(name: str, missing: dict[str, str], detail: str) -> Check:
    if not missing:
        return Check(name, True, detail)
    extra = next(iter(missing.values()))
    how = f"missing: {', '.join(missing)}; pip install 'nemotron-deploy[{extra}]'"
    return Check(name, False, how)


def _gpu_serving(engine: Engine, packages: dict[str, str | None], gpus: tuple[str, ...]) -> Check:
    installed = packages[engine.package.replace("_", "-")]
    here = "; ".join(gpus) if gpus else "no NVIDIA GPU here (nvidia-smi lists none)"
    detail = here if installed else f"{here}; {engine.title} is not installed (its image has it)"
    return Check(f"serve with {engine.title}", bool(gpus) and installed is not None, detail)


def _local_serving() -> Check:
    from ..triton_repo.local import unavailable

    reason = unavailable()
    detail = reason or "tritonserver with the reference executor, on the CPU"
    return Check("serve without a GPU", reason is None, detail)


def _default_model_space(free: int) -> Check:
    model = known_model(DEFAULT_CHECKPOINT)
    assert model is not None, "the default checkpoint's configuration is packaged"
    needed = model.bytes + CONSERVATIVE["int4"].weights_bytes(model)
    detail = (
        f"{size_text(model.bytes, 0)} of weights and {size_text(needed - model.bytes, 0)} of "
        f"output; {size_text(free, 0)} are free in this directory"
    )
    return Check("disk space to quantize Nemotron 3 Nano to INT4", free >= needed, detail)


def _gpus() -> tuple[str, ...]:
    """Names and memory of the GPUs that the driver reports."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
