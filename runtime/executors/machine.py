"""Whether this machine is what an engine was built for."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from ..errors import StartError

_LEAST_SHARE = 0.97
"""Of the planned memory: drivers and variants of a card differ by a few hundred MB."""


def require_version(product: str, wanted: str, installed: str) -> None:
    """Raise `StartError` if the installed version is not one that the bundle was built for."""
    from packaging.specifiers import SpecifierSet

    if not SpecifierSet(wanted).contains(installed, prereleases=True):
        raise StartError(
            f"this bundle was built for {product} {wanted}, but {installed} is installed; "
            "run the image that the bundle names, or build again for this one"
        )


def require_gpu(engine: Mapping[str, Any]) -> None:
    """Raise `StartError` if GPUs, their memory or the driver are not those of `engine`, an
    `engine.json`."""
    import torch

    count, wanted = torch.cuda.device_count(), int(engine.get("gpus") or 1)
    if count < wanted:
        raise StartError(f"this bundle needs {wanted} GPU(s), but {count} are visible")
    major, minor = torch.cuda.get_device_capability()
    if major * 10 + minor != engine["sm"]:
        raise StartError(
            f"this bundle was built for {engine['gpu']} (SM{engine['sm']}), "
            f"but the GPU here is SM{major * 10 + minor}; build again for this GPU"
        )
    memory = torch.cuda.get_device_properties(0).total_memory
    planned = engine.get("gpu_memory_bytes")
    if planned and memory < _LEAST_SHARE * planned:
        raise StartError(
            f"this bundle was planned for {engine['gpu']} with {planned / 1e9:.1f} GB of memory, "
            f"but the GPU here has {memory / 1e9:.1f} GB: it is another card, or a slice of one"
        )
    lowest, here = engine.get("driver"), driver_cuda_version()
    if lowest and here and here[0] < int(lowest["cuda"]):
        raise StartError(
            f"this bundle's kernels need NVIDIA driver {lowest['version']} or later, and the one "
            f"here knows CUDA {here[0]}.{here[1]} at most; update the driver of this node"
        )


def driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA version that this machine's driver knows (cuDriverGetVersion), or None where
    there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return version.value // 1000, version.value % 1000 // 10
