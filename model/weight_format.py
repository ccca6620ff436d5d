"""How one weight matrix is stored in a format: tensors, groups, scales. No tensors are touched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..core.errors import RefusedError
from .architecture import DTYPE_BYTES, TensorGroup

MODELOPT: Final = "modelopt"
COMPRESSED_TENSORS: Final = "compressed-tensors"
"""Keys of the layouts in which a quantized matrix is stored, and how checkpoints name them."""

GROUP_SIZES: Final = (32, 64, 128)
"""Group sizes of INT4 and INT8; NVFP4's is 16 by definition."""

ROW: Final = 0
"""As a group size of INT8: each row of a matrix has one scale, which is ModelOpt's W8A16."""

BLOCK: Final = 64
"""Input width that kernels read at once: they need whole ones of rows that have one scale."""

INTEGER_BITS: Final[Mapping[str, int]] = {"int8": 8, "int4": 4}
"""Bits of a weight of the formats that store integers."""

QUANT_ALGOS: Final[Mapping[str, str]] = {
    "fp8": "FP8",
    "int8": "W8A16",
    "int4": "W4A16_AWQ",
    "nvfp4": "W4A16_NVFP4",
}
"""ModelOpt's names of the formats."""


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
class WeightFormat:
    """A format of weights: a key of `QUANT_ALGOS`, and how many weights of a row share a scale (0
    stands for whole rows in INT8, and for none in FP8). With `inputs`, NVFP4 weights are multiplied
    with NVFP4 inputs (W4A4), for which a scale is stored."""

    key: str
    group_size: int = 0
    inputs: bool = False

    @property
    def quant_algo(self) -> str:
        """ModelOpt's name of it."""
        return "NVFP4" if self.inputs else QUANT_ALGOS[self.key]

    @property
    def integer_bits(self) -> int:
        """Bits of a weight in a format of `INTEGER_BITS`."""
        return INTEGER_BITS[self.key]

    @property
    def scales_activations(self) -> bool:
        """Whether a calibration must supply an `input_scale` for each tensor."""
        return self.key == "fp8" or self.inputs

    @property
    def name(self) -> str:
        """For people, without groups: `INT4`."""
        return f"{self.key.upper()} (W4A4)" if self.inputs else self.key.upper()

    @property
    def label(self) -> str:
        """For people: `INT4, group 64`."""
        name = self.name
        if self.key not in INTEGER_BITS:
            return name
        return f"{name}, group {self.group_size}" if self.group_size else f"{name}, one scale a row"

    def stored(self, group: TensorGroup, layout: str = MODELOPT) -> tuple[StoredTensor, ...]:
        """What one tensor of `group` [N, K] becomes in a layout. Raises `RefusedError` naming the
        tensor when its widths do not divide."""
        rows, columns = group.shape
        if layout == COMPRESSED_TENSORS:
            return self._packed(group)
        if self.key == "fp8":
            weight = StoredTensor("weight", "F8_E4M3", group.shape)
            scales = (StoredTensor(name, "F32", ()) for name in ("weight_scale", "input_scale"))
            return (weight, *scales)
        self.require_divisible(group)
        if self.key == "int8":
            shape = (rows, columns // self.group_size) if self.group_size else (rows,)
            return (
                StoredTensor("weight", "I8", group.shape),
                StoredTensor("weight_scale", "F32", shape),
            )
        groups = columns // self.group_size
        if self.key == "nvfp4":
            input_scale = (StoredTensor("input_scale", "F32", ()),) if self.inputs else ()
            return (
                StoredTensor("weight", "U8", (rows, columns // 2)),
                StoredTensor("weight_scale", "F8_E4M3", (rows, groups)),
                StoredTensor("weight_scale_2", "F32", ()),
                *input_scale,
            )
        return (
            StoredTensor("weight", "U8", (rows // 2, columns)),
            StoredTensor("weight_scale", "F32", (rows, groups)),
        )

    def _packed(self, group: TensorGroup) -> tuple[StoredTensor, ...]:
        """The same in the layout pack-quantized of compressed-tensors, which has integers only."""
        self.require_divisible(group)
        rows, columns = group.shape
        return (
            StoredTensor("weight_packed", "I32", (rows, columns * self.integer_bits // 32)),
            StoredTensor("weight_scale", "BF16", (rows, columns // (self.group_size or columns))),
            StoredTensor("weight_shape", "I64", (2,)),
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
        if self.key != "int8" and rows % 2:
            raise RefusedError(
                f"{where}: its output width is odd, and two values share a byte (rule: "
                "group-size). What works instead: --quant fp8."
            )
