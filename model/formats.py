"""The formats that `--quant` chooses: one record each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .recipe import Recipe
from .recipes import CONSERVATIVE


@dataclass(frozen=True, slots=True)
class Quant:
    """A format.

    `bits` are those of a quantized expert's weight without its scales, `operands` is what matrix
    units multiply for it: `bf16` or `fp8`. `recipe` says which tensors get which format, in which
    groups and with which KV cache.
    """

    key: str
    name: str
    bits: int
    operands: str
    recipe: Recipe


QUANTS: Final[Mapping[str, Quant]] = {
    key: Quant(key, name, bits, operands, CONSERVATIVE[key])
    for key, name, bits, operands in (
        ("bf16", "BF16, unquantized", 16, "bf16"),
        ("fp8", "FP8 E4M3, per-tensor weights and activations", 8, "fp8"),
        ("int8", "INT8 weights, symmetric, group 64", 8, "bf16"),
        ("int4", "INT4 weights, symmetric, group 64", 4, "bf16"),
        ("nvfp4", "NVFP4 weights (4-bit float), BF16 activations", 4, "bf16"),
    )
}
"""Every format, each with the recipe of a model for which nobody published one."""
