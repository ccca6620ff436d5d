"""Packaged data: configurations of known models, GPUs and their architectures, prices, the embedded
`tiny` checkpoint, and calibration text."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Final

from ...core.errors import BadInputError, UsageError
from ..architecture import Model
from ..config import read_model
from ..spec import Architecture, ExpertRates, Gpu
from .family import FAMILY, known_repository

_HERE: Final = Path(__file__).parent

TINY: Final = _HERE / "tiny"
"""The embedded checkpoint: a small, trained Nemotron-H model."""

CALIBRATION_TEXT: Final = _HERE / "calibration" / "text.jsonl"
"""Calibration and held-out text for real models; `LICENSES.txt` is beside it."""

PRICES: Final = _HERE / "prices.json"
"""Dated list prices of GPU hours and hosted APIs."""

GPUS: Final = _HERE / "gpus.json"
"""The known GPUs: what a vendor publishes of each."""

ARCHITECTURES: Final = _HERE / "architectures.json"
"""One record for each SM version of a known GPU."""

DEFAULT_CHECKPOINT: Final = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"

SHORT_NAMES: Final = tuple(dict.fromkeys(row.name for row in FAMILY))
"""The short names of all known models."""

CONFIGURATIONS: Final = tuple(dict.fromkeys(row.configuration for row in FAMILY))
"""The short names of those whose configuration is packaged; the others have one of theirs."""


def known_model(name: str) -> Model | None:
    """The packaged model of that hub id or short name (letter case is ignored), or None."""
    row = known_repository(name)
    if row is None:
        return None
    path = _HERE / f"{row.configuration}.config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if row.whole:
        config = {"architectures": [row.whole], "llm_config": config}
    return read_model(config, row.name)


@cache
def gpus() -> dict[str, Gpu]:
    """Every known GPU by its key, in the order they are shown.

    Raises `BadInputError` for a GPU whose row or whose architecture's record is incomplete.
    """
    rows = json.loads(GPUS.read_text(encoding="utf-8"))["gpus"]
    known: dict[str, Gpu] = {}
    for row in rows:
        try:
            known[row["key"]] = _gpu(row)
        except KeyError as error:
            name = row.get("key", "a GPU")
            raise BadInputError(f"{GPUS}: {name}: the field {error} is missing") from error
    for gpu in known.values():
        _require_consistent(gpu)
    return known


def _require_consistent(gpu: Gpu) -> None:
    """Check that the GPU's architecture has a record, and that both agree on FP8."""
    has_fp8 = "fp8" in architecture(gpu.sm).operands
    for card in (gpu, *gpu.variants):
        if has_fp8 != (card.fp8_flops is not None):
            raise BadInputError(
                f"{GPUS}: {card.name}: `fp8_tflops` must be a number exactly where SM{gpu.sm} has "
                f"fp8 among its `operands` in {ARCHITECTURES.name}"
            )


@cache
def architectures() -> dict[int, Architecture]:
    """Every known GPU architecture by its SM version.

    Raises `BadInputError` that names the record and what is missing in it: a field, or the rates of
    a format that its matrix units can run.
    """
    rows = json.loads(ARCHITECTURES.read_text(encoding="utf-8"))["architectures"]
    by_sm = {row["sm"]: row for row in rows}
    if len(by_sm) < len(rows):
        raise BadInputError(f"{ARCHITECTURES}: two records have the same `sm`")
    try:
        complete = [by_sm[row["like"]] | row if "like" in row else row for row in rows]
    except KeyError as error:
        raise BadInputError(f"{ARCHITECTURES}: `like` names SM{error}, which is missing") from error
    return {row["sm"]: _architecture(row) for row in complete}


def _architecture(row: dict[str, Any]) -> Architecture:
    from ..formats import QUANTS  # here, since `inspect` needs no formats and should start fast

    where = f"{ARCHITECTURES}: SM{row['sm']}"
    try:
        record = Architecture(
            sm=row["sm"],
            name=row["name"],
            operands=frozenset(row["operands"]),
            weights=row["weights"],
            flops=row["flops"],
            scores=row["scores"],
            layer_s={letter: row["layer_us"][letter] * 1e-6 for letter in "M*E-"},
            experts={
                key: ExpertRates(
                    rates["bandwidth"],
                    rates["flops"],
                    rates["fixed_us"] * 1e-6,
                    rates.get("caveat", ""),
                )
                for key, rates in row["experts"].items()
            },
            source=row["source"],
            like=row.get("like"),
        )
    except KeyError as error:
        raise BadInputError(f"{where}: the field {error} is missing") from error
    for operands in record.operands - set(record.flops):
        raise BadInputError(f"{where}: `flops` has no share for {operands} operands")
    for quant in QUANTS.values():
        if quant.operands in record.operands and quant.key not in record.experts:
            raise BadInputError(f"{where}: `experts` has no rates for the format {quant.key}")
    return record


def architecture(sm: int) -> Architecture:
    """The architecture of that SM version. Raises `BadInputError` where it has no record."""
    if sm not in architectures():
        known = ", ".join(f"SM{known}" for known in architectures())
        raise BadInputError(f"{ARCHITECTURES}: SM{sm} has no record; {known} have one")
    return architectures()[sm]


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
        note=row.get("note", ""),
        gpus_per_node=row.get("gpus_per_node", 8),
    )


def gpu(name: str) -> Gpu:
    """The GPU of that key, in any usual spelling (`H100`, `a100_40gb`, `NVIDIA-H100-80GB-HBM3`,
    `p5.48xlarge`); a variant, as `H100 PCIe`, has its GPU's key and rates of its own.

    Raises `UsageError` that lists the known ones.
    """

    for known in gpus().values():
        # A GPU's own spellings list its variants' labels, too.
        for card in (*known.variants, known):
            spellings = card.spellings if card is known else card.spellings[1:]
            if any(_same(name, spelling) for spelling in spellings):
                return card
    raise UsageError(f"unknown GPU {name!r}; known are {', '.join(gpus())}")


def _same(name: str, spelling: str) -> bool:
    """Whether `name` is meant by `spelling`: letter case, marks and the maker's name do not count,
    except where a cloud's machines of any size are meant."""
    if "*" in spelling:
        return fnmatch(name.lower(), spelling.lower())

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower()).removeprefix("nvidia").removeprefix("tesla")

    return plain(name) == plain(spelling)
