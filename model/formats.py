"""The formats that `--quant` chooses: one record each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..core.errors import UsageError
from .recipe import RECIPES, Recipe


@dataclass(frozen=True, slots=True)
class Quant:
    """A format.

    `bits` are those of a quantized weight without its scales, `operands` is what matrix units
    multiply for it: `bf16` or `fp8`. `recipe` says which tensors it quantizes, in which groups and
    with which KV cache.
    """

    key: str
    name: str
    bits: int
    operands: str
    recipe: Recipe


QUANTS: Final[Mapping[str, Quant]] = {
    quant.key: quant
    for quant in (
        Quant("bf16", "BF16, unquantized", 16, "bf16", RECIPES["bf16"]),
        Quant("fp8", "FP8 E4M3, per-tensor weights and activations", 8, "fp8", RECIPES["fp8"]),
        Quant("int8", "INT8 weights, symmetric, group 64", 8, "bf16", RECIPES["int8"]),
        Quant("int4", "INT4 weights, symmetric, group 64", 4, "bf16", RECIPES["int4"]),
        Quant(
            "nvfp4",
            "NVFP4 weights (4-bit float), BF16 activations",
            4,
            "bf16",
            RECIPES["nvfp4"],
        ),
    )
}


def quant_named(name: str) -> Quant:
    """The format of that name. Raises `UsageError` that lists the known ones."""
    if name.lower() not in QUANTS:
        raise UsageError(f"unknown format {name!r}; known are {', '.join(QUANTS)}")
    return QUANTS[name.lower()]
