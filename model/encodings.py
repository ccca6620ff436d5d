"""How one quantized matrix is stored: its format, told by dtypes and shapes of the tensors it has.

Two layouts are known, ModelOpt's and that of `compressed-tensors`, whoever wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from .declared import Declared
from .headers import TensorInfo
from .spelling import UNQUANTIZED_DTYPES
from .weight_format import COMPRESSED_TENSORS, GROUP_SIZES, MODELOPT, ROW, WeightFormat

WEIGHT: Final = "weight"
PACKED: Final = "weight_packed"
SHAPE: Final = "weight_shape"
SCALE: Final = "weight_scale"
SCALE_2: Final = "weight_scale_2"
INPUT_SCALE: Final = "input_scale"
"""Last parts of the names of tensors that together are one quantized matrix."""

SCALES: Final = (SCALE, SCALE_2, INPUT_SCALE)

NVFP4_GROUP: Final = 16

_STORED_IN: Final = ("F8_E4M3", "F8_E5M2", "U8", "I8")
"""Dtypes that nothing but quantized weights has."""

_UNUSABLE: Final[Mapping[str, str]] = {
    "weight_zero_point": "asymmetric integers",
    "weight_g_idx": "integers in the order of activations (act-order)",
    "pre_quant_scale": "AWQ with scales of inputs",
    "prequant_scaling_factor": "AWQ with scales of inputs",
    "weight_global_scale": "NVFP4 in the layout of compressed-tensors",
    "bitmask": "2:4 sparse weights",
    "scale_packed": "2:4 sparse weights of Marlin",
}
"""What a tensor of that name's last part means: a matrix that cannot be used."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one matrix is stored.

    `layout` is the key of the layout whose tensors these are.
    """

    format: WeightFormat
    layout: str


class UnusableError(ValueError):
    """A matrix is stored in a way that nothing here reads; the message names that way."""


Parts = Mapping[str, TensorInfo]
"""The tensors of one matrix by their suffix."""

Decoded = tuple[Encoding, tuple[int, ...]]


def is_quantized(parts: Parts) -> bool:
    """Whether these tensors, which have one owner, are more than a plain parameter."""
    weight = parts.get(WEIGHT)
    return (
        PACKED in parts
        or SCALE in parts
        or not parts.keys().isdisjoint(_UNUSABLE)
        or (weight is not None and weight.dtype in _STORED_IN)
    )


def encoding_of(
    owner: str,
    stored: TensorInfo,
    parts: Parts,
    expected: tuple[int, ...] | None,
    said: Declared | None,
) -> Decoded:
    """How the matrix `owner`, of which `stored` holds the numbers, is stored, and its shape [N, K].
    `expected` is the shape that the configuration calls for. Raises `UnusableError`."""
    for suffix in parts:
        if suffix in _UNUSABLE:
            raise UnusableError(f"{_UNUSABLE[suffix]} ({owner}.{suffix})")
    if SCALE not in parts:
        raise UnusableError(f"{stored.dtype} without scales ({stored.name})")
    if len(stored.shape) != 2:
        raise UnusableError(f"{stored.dtype} in {len(stored.shape)} dimensions ({stored.name})")
    if PACKED in parts:
        return _packed(stored, parts, expected, said)
    read = _BY_DTYPE.get(stored.dtype)
    if read is None:
        raise UnusableError(f"{stored.dtype} with scales ({stored.name})")
    return read(stored, parts, said)


def _fp8(weight: TensorInfo, parts: Parts, said: Declared | None) -> Decoded:
    scale, input_scale = parts[SCALE], parts.get(INPUT_SCALE)
    if math.prod(scale.shape) != 1:
        rows = scale.shape in ((weight.shape[0],), (weight.shape[0], 1))
        kind = "FP8 with a scale for each row" if rows else "blocks of FP8"
        raise UnusableError(f"{kind} ({scale.name} has shape {list(scale.shape)})")
    if input_scale is None:
        raise UnusableError(
            f"FP8 without scales of its inputs ({weight.name} has no {INPUT_SCALE}: it was made "
            "without calibration)"
        )
    _require_input_scale(input_scale, "FP8")
    _require_float(scale, "FP8")
    plain = all(part.shape == () and part.dtype == "F32" for part in (scale, input_scale))
    layout = MODELOPT if plain else COMPRESSED_TENSORS
    return Encoding(WeightFormat("fp8"), layout), weight.shape


def _int8(weight: TensorInfo, parts: Parts, said: Declared | None) -> Decoded:
    _require_weights_only("INT8", parts, said)
    scale = parts[SCALE]
    group_size = _group_size("INT8", weight.shape, scale)
    plain = scale.dtype == "F32" and len(scale.shape) == (2 if group_size else 1)
    layout = MODELOPT if plain else COMPRESSED_TENSORS
    return Encoding(WeightFormat("int8", group_size), layout), weight.shape


def _four_bits(weight: TensorInfo, parts: Parts, said: Declared | None) -> Decoded:
    """Two values a byte: of two columns in NVFP4, of two rows in INT4."""
    rows, columns = weight.shape
    scale, second = parts[SCALE], parts.get(SCALE_2)
    if scale.dtype == "U8":
        raise UnusableError(f"MXFP4 ({scale.name})")
    if scale.dtype == "F8_E4M3":
        if second is None or second.shape != ():
            raise UnusableError(f"NVFP4 without its second scale ({weight.name})")
        _require_float(second, "NVFP4")
        if scale.shape != (rows, columns * 2 // NVFP4_GROUP):
            raise UnusableError(f"NVFP4 in groups other than {NVFP4_GROUP} ({scale.name})")
        input_scale = parts.get(INPUT_SCALE)
        if input_scale is not None:
            _require_input_scale(input_scale, "NVFP4")
        kind = WeightFormat("nvfp4", NVFP4_GROUP, inputs=input_scale is not None)
        return Encoding(kind, MODELOPT), (rows, columns * 2)
    if second is not None:
        raise UnusableError(f"INT4 weights with FP8 inputs (W4A8, {weight.name})")
    _require_weights_only("INT4", parts, said)
    shape = (rows * 2, columns)
    group_size = _group_size("INT4", shape, scale)
    layout = MODELOPT if scale.dtype == "F32" else COMPRESSED_TENSORS
    return Encoding(WeightFormat("int4", group_size), layout), shape


def _packed(
    packed: TensorInfo, parts: Parts, expected: tuple[int, ...] | None, said: Declared | None
) -> Decoded:
    """Integers along the columns of 32-bit words. How many a word holds follows from the width that
    the configuration calls for."""
    if packed.dtype != "I32":
        raise UnusableError(f"4-bit floats in the layout of compressed-tensors ({packed.name})")
    rows, words = packed.shape
    columns = expected[1] if expected and len(expected) == 2 else 0
    if not columns:
        raise UnusableError(f"packed integers for no matrix of the configuration ({packed.name})")
    bits, rest = divmod(words * 32, columns)
    if rest or bits not in (4, 8):
        what = f"INT{bits}" if not rest else f"{words} words for {columns} integers"
        raise UnusableError(f"{what} ({packed.name})")
    name, shape = f"INT{bits}", (rows, columns)
    _require_weights_only(name, parts, said)
    group_size = _group_size(name, shape, parts[SCALE])
    return Encoding(WeightFormat(name.lower(), group_size), COMPRESSED_TENSORS), shape


_BY_DTYPE: Final[Mapping[str, Callable[[TensorInfo, Parts, Declared | None], Decoded]]] = {
    "F8_E4M3": _fp8, "I8": _int8, "U8": _four_bits,
}  # fmt: skip


def _require_input_scale(scale: TensorInfo, name: str) -> None:
    if math.prod(scale.shape) != 1:
        raise UnusableError(f"{name} with several scales of its inputs ({scale.name})")
    _require_float(scale, name)


def _require_float(scale: TensorInfo, name: str) -> None:
    if scale.dtype not in UNQUANTIZED_DTYPES:
        raise UnusableError(f"{name} with scales in {scale.dtype} ({scale.name})")


def _require_weights_only(name: str, parts: Parts, said: Declared | None) -> None:
    if INPUT_SCALE in parts or (said is not None and said.integer_inputs):
        raise UnusableError(f"{name} weights with quantized inputs (W{name[3:]}A8)")


def _group_size(name: str, shape: tuple[int, ...], scale: TensorInfo) -> int:
    """Weights of a row that share a scale; `ROW` where all do."""
    rows, columns = shape
    _require_float(scale, name)
    groups = scale.shape[1] if len(scale.shape) == 2 else 1
    if scale.shape not in ((rows,), (rows, groups)):
        raise UnusableError(
            f"{name} with scales in another shape ({scale.name} is {list(scale.shape)})"
        )
    if groups == 1 and name == "INT8":
        return ROW
    size, rest = divmod(columns, groups) if groups else (0, 0)
    if rest or size not in GROUP_SIZES:
        known = ", ".join(map(str, GROUP_SIZES))
        raise UnusableError(
            f"{name} with {groups} scales for a row of {columns} ({scale.name}; known are groups "
            f"of {known})"
        )
    return size
