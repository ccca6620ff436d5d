"""Encode and decode one tensor, in the layouts of NVIDIA ModelOpt's unified checkpoint.

Byte-equal to ModelOpt 0.47 (held by tests). Depends on torch alone: a copy of this file travels in
every bundle, where the reference executor decodes with it.

- FP8 E4M3, per tensor: `weight` float8_e4m3fn [N, K]; `weight_scale` f32 [] = amax / 448.
- INT4, symmetric, groups of g along K: `weight` uint8 [N/2, K], low nibble row 2i and high nibble
  row 2i+1 in two's complement; `weight_scale` f32 [N, K/g] = the group's amax / 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

FP8_MAX: Final = 448.0
"""Largest finite E4M3 value."""

INT4_MAX: Final = 7.0
"""Scales map a group's largest magnitude to 7; -8 is only reached by rounding."""

SCALE_SUFFIXES: Final = ("weight_scale", "input_scale", "k_scale", "v_scale")
"""Tensors that describe a quantized neighbour and are no parameters of the model."""

_ROWS_AT_ONCE: Final = 512
"""Rows encoded together: bounds the float32 intermediate to a few MB whatever the tensor."""


class EncodeError(ValueError):
    """A tensor cannot be encoded: its shape does not divide, or its values are not usable."""


def fp8_scale(amax: Tensor) -> Tensor:
    """The FP8 scale for a largest magnitude `amax` (any shape), float32."""
    return amax.float() / FP8_MAX


def encode_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """FP8 of `weight` [N, K] -> (float8_e4m3fn [N, K], scale f32 []).

    As in ModelOpt the quotient is taken in the weight's own dtype: dividing BF16 by a scalar rounds
    to BF16 before it rounds to E4M3. Raises `EncodeError` for NaN, infinite or all-zero weights.
    """
    amax = weight.abs().amax()
    _require_usable(amax, "the tensor")
    scale = fp8_scale(amax)
    return (weight / scale).to(torch.float8_e4m3fn), scale


def decode_fp8(stored: Tensor, scale: Tensor) -> Tensor:
    """Values of an FP8 tensor, float32."""
    return stored.float() * scale.float()


def encode_int4(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """INT4 of `weight` [N, K] -> (uint8 [N/2, K], scale f32 [N, K/group_size]).

    Raises `EncodeError` where N is odd, K is no multiple of the group, or a group is all zero, NaN
    or infinite.
    """
    rows, columns = weight.shape
    if columns % group_size:
        raise EncodeError(
            f"its input width {columns} is not a multiple of the group size {group_size}"
        )
    if rows % 2:
        raise EncodeError(f"its output width {rows} is odd; two rows share a byte")
    packed = torch.empty(rows // 2, columns, dtype=torch.uint8)
    scale = torch.empty(rows, columns // group_size, dtype=torch.float32)
    for start in range(0, rows, _ROWS_AT_ONCE):
        block = weight[start : start + _ROWS_AT_ONCE].float()
        groups = block.view(block.shape[0], -1, group_size)
        amax = groups.abs().amax(dim=-1)
        _require_usable(amax, "a group")
        block_scale = amax / INT4_MAX
        nibbles = (groups / block_scale.unsqueeze(-1)).round_().clamp_(-8, 7).to(torch.int8)
        nibbles = nibbles.view(torch.uint8).view(block.shape[0], columns) & 0x0F
        packed[start // 2 : (start + block.shape[0]) // 2] = nibbles[0::2] | (nibbles[1::2] << 4)
        scale[start : start + block.shape[0]] = block_scale
    return packed, scale


def decode_int4(packed: Tensor, scale: Tensor) -> Tensor:
    """Values of an INT4 tensor: `packed` uint8 [N/2, K], `scale` [N, K/g] -> float32 [N, K]."""
    low = (packed << 4).view(torch.int8) >> 4
    high = packed.view(torch.int8) >> 4
    nibbles = torch.stack((low, high), dim=1).view(-1, packed.shape[1])
    groups = nibbles.view(*scale.shape, -1).float() * scale.float().unsqueeze(-1)
    return groups.view(nibbles.shape)


def decode(stored: Tensor, scale: Tensor) -> Tensor:
    """Values of a quantized tensor of either format, told apart by dtype; float32."""
    if stored.dtype is torch.uint8:
        return decode_int4(stored, scale)
    return decode_fp8(stored, scale)


def decode_checkpoint(
    tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.bfloat16
) -> dict[str, Tensor]:
    """A quantized checkpoint's tensors -> the model's parameters, under the same hub names.

    Quantized weights are decoded to `dtype`; scales are dropped; all other tensors stay.
    """
    decoded = {}
    for name, tensor in tensors.items():
        prefix, _, suffix = name.rpartition(".")
        if suffix in SCALE_SUFFIXES:
            continue
        if tensor.dtype in (torch.uint8, torch.float8_e4m3fn):
            tensor = decode(tensor, tensors[f"{prefix}.weight_scale"]).to(dtype)
        decoded[name] = tensor
    return decoded


def _require_usable(amax: Tensor, what: str) -> None:
    if not bool(torch.isfinite(amax).all()):
        raise EncodeError(f"{what} holds NaN or infinite values")
    if not bool((amax > 0).all()):
        raise EncodeError(f"{what} is all zero and has no scale")
