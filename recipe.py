"""Which tensor gets which format, and how many bytes that takes. Data and arithmetic, no tensors.

The quantizer follows these records and the planner sums over them, so that both always agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from .errors import RefusedError
from .spec import DTYPE_BYTES, Model, Role, TensorGroup


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
        self._require_divisible(group)
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

    def _require_divisible(self, group: TensorGroup) -> None:
        rows, columns = group.shape
        if columns % self.group_size == 0 and rows % 2 == 0:
            return
        fitting = [size for size in (128, 64, 32) if columns % size == 0]
        instead = f"group size {fitting[0]} divides it" if fitting else "use --quant fp8"
        raise RefusedError(
            f"{group.template.format(0)} [{rows}, {columns}] cannot be {self.key.upper()}: groups "
            f"of {self.group_size} do not divide its input width (rule: group-size); what works "
            f"instead: {instead}."
        )

    def weights_bytes(self, model: Model) -> int:
        """Bytes of all tensors of `model` in this format, scales included."""
        return sum(size for _, size in self.bytes_by_role(model))

    def bytes_by_role(self, model: Model) -> Iterator[tuple[Role, int]]:
        """Role and bytes of each tensor group."""
        for group in model.tensors():
            yield group.role, group.count * sum(stored.bytes for stored in self.stored(group))


EXPERT_ROLES: Final = frozenset({Role.EXPERT, Role.SHARED_EXPERT, Role.MLP})

RECIPES: Final[Mapping[str, Recipe]] = {
    recipe.key: recipe
    for recipe in (
        Recipe("bf16", "bf16", "", frozenset(), summary="as in the source checkpoint"),
        Recipe(
            "fp8",
            "fp8",
            "FP8",
            EXPERT_ROLES,
            activation_scales=True,
            summary="experts (and dense MLPs) FP8, as ModelOpt's conservative Mamba-MoE preset; "
            "Mamba, attention, router, embeddings and head BF16",
        ),
        Recipe(
            "int4",
            "int4",
            "W4A16_AWQ",
            EXPERT_ROLES,
            group_size=64,
            summary="experts (and dense MLPs) INT4, group 64, FP32 scales; Mamba, attention, "
            "router, embeddings and head BF16",
        ),
        Recipe(
            "nvfp4",
            "nvfp4",
            "W4A16_NVFP4",
            EXPERT_ROLES,
            group_size=16,
            summary="experts (and dense MLPs) 4-bit float, group 16; for sizes only, not written",
        ),
    )
}
