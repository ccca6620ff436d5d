"""Which tensor gets which format, and how many bytes that takes. Data and arithmetic, no tensors.

The quantizer follows these records and the planner sums over them, so that both always agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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

    `roles` are the ones that are quantized; everything else is copied. `activation_scales` says
    whether a calibration must supply an `input_scale` for each quantized tensor. `quant_algo` is
    ModelOpt's name of the format.
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

    def quantizes(self, group: TensorGroup) -> bool:
        return group.role in self.roles and len(group.shape) == 2

    def stored(self, group: TensorGroup) -> tuple[StoredTensor, ...]:
        """What one tensor of `group` [N, K] becomes. Raises `RefusedError` naming the tensor when
        its widths do not divide."""
        if not self.quantizes(group):
            return (StoredTensor("", group.dtype, group.shape),)
        rows, columns = group.shape
        if self.format == "fp8":
            scales = ["weight_scale"] + ["input_scale"] * self.activation_scales
            weight = StoredTensor("weight", "F8_E4M3", group.shape)
            return (weight, *(StoredTensor(name, "F32", ()) for name in scales))
        self.require_divisible(group)
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
        if columns % self.group_size:
            fitting = [size for size in GROUP_SIZES if columns % size == 0]
            instead = f"--group-size {fitting[-1]}, which does" if fitting else "--quant fp8"
            raise RefusedError(
                f"{where}: groups of {self.group_size} do not divide its input width (rule: "
                f"group-size). What works instead: {instead}."
            )
        if rows % 2:
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


EXPERT_ROLES: Final = frozenset({Role.EXPERT, Role.SHARED_EXPERT, Role.MLP})

GROUP_SIZES: Final = (32, 64, 128)
"""What `--group-size` may be for INT4; NVFP4's is 16 by definition."""

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


def _fp8(layers: str) -> Recipe:
    roles, summary = FP8_LAYERS[layers]
    return Recipe("fp8", "fp8", "FP8", roles, activation_scales=True, summary=summary)


RECIPES: Final[Mapping[str, Recipe]] = {
    recipe.key: recipe
    for recipe in (
        Recipe("bf16", "bf16", "", frozenset(), summary="as in the source checkpoint"),
        _fp8("conservative"),
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
    if group_size is not None and group_size not in GROUP_SIZES:
        known = ", ".join(map(str, GROUP_SIZES))
        raise UsageError(f"--group-size {group_size}: known are {known}")
    if fp8_layers is not None and fp8_layers not in FP8_LAYERS:
        raise UsageError(f"--fp8-layers {fp8_layers!r}: known are {', '.join(FP8_LAYERS)}")
    if group_size is not None and quant != "int4":
        raise UsageError(f"--group-size belongs to --quant int4, not to {quant}")
    if fp8_layers is not None and quant != "fp8":
        raise UsageError(f"--fp8-layers belongs to --quant fp8, not to {quant}")
    if group_size is not None:
        return _int4(group_size)
    return _fp8(fp8_layers) if fp8_layers is not None else RECIPES[quant]
