"""The formats that `--quant` chooses: one record each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from ..core.errors import UsageError
from .recipe import RECIPES, Recipe, recipe_for


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


def quant_named(name: str, group_size: int | None = None, fp8_layers: str | None = None) -> Quant:
    """The format of that name, with another group size or other FP8 layers than its own where they
    are given. Raises `UsageError` that lists the known ones, and as `recipe_for`."""
    if name.lower() not in QUANTS:
        raise UsageError(f"unknown format {name!r}; known are {', '.join(QUANTS)}")
    known = QUANTS[name.lower()]
    recipe = recipe_for(known.key, group_size, fp8_layers)
    if recipe == known.recipe:
        return known
    return replace(known, name=f"{known.name.split(',')[0]}: {recipe.summary}", recipe=recipe)
