"""Packaged data: configurations of known models, GPUs, and the embedded `tiny` checkpoint."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Final

from ...core.errors import UsageError
from ..architecture import Model
from ..config import read_model
from ..spec import Gpu

_HERE: Final = Path(__file__).parent

TINY: Final = _HERE / "tiny"
"""The embedded checkpoint: a small, trained Nemotron-H model."""

PRICES: Final = _HERE / "prices.json"
"""Dated list prices of GPU hours and hosted APIs."""

DEFAULT_CHECKPOINT: Final = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"

HUB_IDS: Final = {
    DEFAULT_CHECKPOINT: "nemotron-3-nano-30b-a3b",
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16": "nemotron-3-super-120b-a12b",
    "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16": "nemotron-3-ultra-550b-a55b",
    "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16": "nemotron-3.5-lightning-30b-a3b",
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": "nemotron-nano-9b-v2",
    "nvidia/NVIDIA-Nemotron-Nano-12B-v2": "nemotron-nano-12b-v2",
    "nvidia/Nemotron-H-56B-Base-8K": "nemotron-h-56b-base-8k",
}
"""Hub ids whose configuration is packaged, and the short name each is known by."""


def known_model(name: str) -> Model | None:
    """The packaged model of that hub id or short name (letter case is ignored), or None."""
    short = {hub.lower(): short for hub, short in HUB_IDS.items()}.get(name.lower(), name.lower())
    path = _HERE / f"{short}.config.json"
    if short not in HUB_IDS.values() or not path.is_file():
        return None
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read_model(config, short)


@cache
def gpus() -> dict[str, Gpu]:
    """Every known GPU by its key, in the order they are shown."""
    rows = json.loads((_HERE / "gpus.json").read_text(encoding="utf-8"))["gpus"]
    return {row["key"]: _gpu(row) for row in rows}


def _gpu(row: dict[str, Any]) -> Gpu:
    return Gpu(
        key=row["key"],
        name=row["name"],
        sm=row["sm"],
        memory_bytes=row["memory_mib"] * 2**20,
        cuda_bytes=row["cuda_mib"] * 2**20,
        bandwidth_bytes_per_s=row["bandwidth_tb_s"] * 1e12,
        bf16_flops=row["bf16_tflops"] * 1e12,
        fp8_flops=row["fp8_tflops"] * 1e12 if row["fp8_tflops"] else None,
        link_bytes_per_s=row["link_gb_s"] * 1e9,
        fabric=row["fabric"],
        product_labels=tuple(row["product_labels"]),
        aliases=tuple(row["aliases"]),
        variants=tuple(_gpu({**row, "variants": [], **other}) for other in row["variants"]),
    )


def gpu(name: str) -> Gpu:
    """The GPU of that key, in any usual spelling (`H100`, `a100_40gb`, `NVIDIA-H100-80GB-HBM3`,
    `p5.48xlarge`); a variant, as `H100 PCIe`, has its GPU's key and rates of its own.

    Raises `UsageError` that lists the known ones.
    """

    for known in gpus().values():
        # A GPU's own spellings list its variants' labels, too.
        for found in (*known.variants, known):
            spellings = found.spellings if found is known else found.spellings[1:]
            if any(_same(name, spelling) for spelling in spellings):
                return found
    raise UsageError(f"unknown GPU {name!r}; known are {', '.join(gpus())}")


def _same(name: str, spelling: str) -> bool:
    """Whether `name` is meant by `spelling`: letter case, marks and the maker's name do not count,
    except where a cloud's machines of any size are meant."""
    if "*" in spelling:
        return fnmatch(name.lower(), spelling.lower())

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower()).removeprefix("nvidia").removeprefix("tesla")

    return plain(name) == plain(spelling)
