"""Which tensor gets which format, and how many bytes that takes. Data and arithmetic, no tensors.

The quantizer follows these records and the planner sums over them, so that both always agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..core.errors import RefusedError, UsageError
from .architecture import DTYPE_BYTES, Model, Role, TensorGroup


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as written: its name's last part, safetensors dtype and shape."""

    suffix: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return int(math.prod(self.shape) * DTYPE_BYTES[self.dtype])


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize a model.

    `roles` are the ones that are quantized; everything else is copied. `group_size` weights of a
    row share a scale; 0 stands for whole rows in INT8, and for none in formats without groups.
    `activation_scales` says whether a calibration must supply an `input_scale` for each quantized
    tensor. `quant_algo` is ModelOpt's name of the format.
    """

    key: str
    format: str
    quant_algo: str
    roles: frozenset[Role]
    group_size: int = 0
    activation_scales: bool = False
    summary: str = field(default="", compare=False)

    @property
    def kv_dtype(self) -> str:
        """What the KV cache holds: FP8 where calibration gives its scales, too."""
        return "F8_E4M3" if self.activation_scales else "BF16"

    @property
    def integer_bits(self) -> int:
        """Bits of a weight in a format of `INTEGER_BITS`."""
        return INTEGER_BITS[self.format]

    def quantizes(self, group: TensorGroup) -> bool:
        return group.role in self.roles and len(group.shape) == 2

    def stored(self, group: TensorGroup) -> tuple[StoredTensor, ...]:
        """What one tensor of `group` [N, K] becomes. Raises `RefusedError` naming the tensor when
        its widths do not divide."""
        if not self.quantizes(group):
            return (StoredTensor("", group.dtype, group.shape),)
        rows, columns = group.shape
        if self.format == "fp8":
            names = ["weight_scale"] + ["input_scale"] * self.activation_scales
            weight = StoredTensor("weight", "F8_E4M3", group.shape)
            return (weight, *(StoredTensor(name, "F32", ()) for name in names))
        self.require_divisible(group)
        if self.format == "int8":
            scales = (rows, columns // self.group_size) if self.group_size else (rows,)
            return (
                StoredTensor("weight", "I8", group.shape),
                StoredTensor("weight_scale", "F32", scales),
            )
        groups = columns // self.group_size
        if self.format == "nvfp4":
            return (
                StoredTensor("weight", "U8", (rows, columns // 2)),
                StoredTensor("weight_scale", "F8_E4M3", (rows, groups)),
                StoredTensor("weight_scale_2", "F32", ()),
            )
        return (
            StoredTensor("weight", "U8", (rows // 2, columns)),
            StoredTensor("weight_scale", "F32", (rows, groups)),
        )

    def require_divisible(self, group: TensorGroup) -> None:
        """Raise `RefusedError` naming the tensor when groups do not divide its input width."""
        rows, columns = group.shape
        where = f"{group.template.format(0)} [{rows}, {columns}] cannot be {self.key.upper()}"
        if columns % (self.group_size or BLOCK):
            fitting = [size for size in GROUP_SIZES if columns % size == 0]
            instead = f"--group-size {fitting[-1]}, which does" if fitting else "--quant fp8"
            problem = (
                f"groups of {self.group_size} do not divide its input width"
                if self.group_size
                else f"its input width is no multiple of {BLOCK}, which whole rows need"
            )
            raise RefusedError(
                f"{where}: {problem} (rule: group-size). What works instead: {instead}."
            )
        if self.format != "int8" and rows % 2:
            raise RefusedError(
                f"{where}: its output width is odd, and two values share a byte (rule: "
                "group-size). What works instead: --quant fp8."
            )

    def weights_bytes(self, model: Model) -> int:
        """Bytes of all tensors of `model` in this format, scales included."""
        return sum(size for _, size in self.bytes_by_role(model))

    def bytes_by_role(self, model: Model) -> Iterator[tuple[Role, int]]:
        """Role and bytes of each tensor group."""
        for group in model.tensors():
            yield group.role, self.bytes_of(group)

    def bytes_of(self, group: TensorGroup) -> int:
        """Bytes of a tensor group as written, scales included: also those of an FP8 KV cache, one
        F32 beside each projection of keys and of values."""
        size = group.count * sum(stored.bytes for stored in self.stored(group))
        return size + 4 * group.count * (self.activation_scales and group.makes_kv)


INTEGER_BITS: Final[Mapping[str, int]] = {"int8": 8, "int4": 4}
"""Bits of a weight of the formats that store integers."""

EXPERT_ROLES: Final = frozenset({Role.EXPERT, Role.SHARED_EXPERT, Role.MLP})

GROUP_SIZES: Final = (32, 64, 128)
"""What `--group-size` may be for INT4 and INT8; NVFP4's is 16 by definition."""

ROW: Final = 0
"""As INT8's `--group-size`: each row of a matrix has one scale, which is ModelOpt's W8A16."""

BLOCK: Final = 64
"""Input width that kernels read at once: they need whole ones of rows that have one scale."""

FP8_LAYERS: Final[Mapping[str, tuple[frozenset[Role], str]]] = {
    "conservative": (
        EXPERT_ROLES,
        "experts (and dense MLPs) FP8, as ModelOpt's conservative Mamba-MoE preset; "
        "Mamba, attention, router, embeddings and head BF16",
    ),
    "aggressive": (
        EXPERT_ROLES | {Role.MAMBA_PROJ},
        "experts (and dense MLPs) and Mamba's projections FP8, as ModelOpt's aggressive Mamba-MoE "
        "preset; attention, router, embeddings and head BF16",
    ),
}
"""What `--fp8-layers` may be: the roles that become FP8, and a summary."""


def _int4(group_size: int) -> Recipe:
    summary = (
        f"experts (and dense MLPs) INT4, group {group_size}; Mamba, attention, router, "
        "embeddings and head BF16"
    )
    return Recipe("int4", "int4", "W4A16_AWQ", EXPERT_ROLES, group_size, summary=summary)


def _int8(group_size: int) -> Recipe:
    scales = f"group {group_size}" if group_size else "one scale a row"
    summary = (
        f"experts (and dense MLPs) INT8, {scales}, weights only; Mamba, attention, router, "
        "embeddings and head BF16"
    )
    return Recipe("int8", "int8", "W8A16", EXPERT_ROLES, group_size, summary=summary)


def _fp8(layers: str) -> Recipe:
    roles, summary = FP8_LAYERS[layers]
    return Recipe("fp8", "fp8", "FP8", roles, activation_scales=True, summary=summary)


_GROUPED: Final[Mapping[str, Callable[[int], Recipe]]] = {"int4": _int4, "int8": _int8}
"""The formats that `--group-size` belongs to."""

RECIPES: Final[Mapping[str, Recipe]] = {
    recipe.key: recipe
    for recipe in (
        Recipe("bf16", "bf16", "", frozenset(), summary="as in the source checkpoint"),
        _fp8("conservative"),
        _int8(64),
        _int4(64),
        Recipe(
            "nvfp4",
            "nvfp4",
            "W4A16_NVFP4",
            EXPERT_ROLES,
            group_size=16,
            summary="experts (and dense MLPs) NVFP4 (4-bit float, group 16), weights only; Mamba, "
            "attention, router, embeddings and head BF16",
        ),
    )
}
"""The recipe of each `--quant`, as it is without further options."""


def recipe_for(quant: str, group_size: int | None = None, fp8_layers: str | None = None) -> Recipe:
    """The recipe of `--quant` (a key of `RECIPES`) with `--group-size` and `--fp8-layers`.

    Raises `UsageError` for a value that does not exist or that the format has no use for.
    """
    if group_size is not None and group_size not in (*GROUP_SIZES, ROW):
        known = ", ".join(map(str, GROUP_SIZES))
        raise UsageError(
            f"--group-size {group_size}: known are {known}, and {ROW} for whole rows of INT8"
        )
    if fp8_layers is not None and fp8_layers not in FP8_LAYERS:
        raise UsageError(f"--fp8-layers {fp8_layers!r}: known are {', '.join(FP8_LAYERS)}")
    if group_size is not None and quant not in _GROUPED:
        formats = " and ".join(f"--quant {key}" for key in _GROUPED)
        raise UsageError(f"--group-size belongs to {formats}, not to {quant}")
    if group_size == ROW and quant == "int4":
        raise UsageError(f"--group-size {ROW}, whole rows, belongs to --quant int8, not to int4")
    if fp8_layers is not None and quant != "fp8":
        raise UsageError(f"--fp8-layers belongs to --quant fp8, not to {quant}")
    if group_size is not None:
        return _GROUPED[quant](group_size)
    return _fp8(fp8_layers) if fp8_layers is not None else RECIPES[quant]
