"""Experts' INT4 weights: from the layout they are stored in to the one the kernels read, and back.

Stored, for a matrix [N, K] (`quantize/formats.py`): uint8 [N/2, K], two output rows a byte in two's
complement, scales float32 [N, K/g]. What a kernel wants is different: the tile that one step of its
loop multiplies must be one contiguous piece of memory, and a nibble must become a 16-bit float
without a conversion instruction. So, with K in blocks of 64:

    word[block, n, i] = sum over j of (q[n, 64 * block + 16 * j + i] + 8) << 4j     j < 4, i < 16

A 16-bit word holds four values of one row that lie 16 apart: shifted right by 4j and masked it is
*plane* j, the operand of one matrix instruction of depth 16. The four planes side by side are the
block in its own order; no value changes place. Any run of rows within a block is contiguous, 32
bytes a row. Scales are transposed, [K/g, N], so that a tile's are contiguous too. Where K is an odd
multiple of 32 the last block is filled with zeros, which cost nothing but their bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from .layout import BLOCK_K, DEPTH, GROUPS, PLANES

_ZERO: Final = 8
"""The stored form of 0: values are kept as value + 8."""


class PackError(ValueError):
    """Weights that cannot be packed; the message names the tensor and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class PackedExperts:
    """The weights of one layer's experts, as the kernels read them.

    `up` int16 [E, H'/64, I, 16], `up_scale` float32 [E, H'/g, I], `down` int16 [E, I'/64, H, 16],
    `down_scale` float32 [E, I'/g, H], where H' and I' are the hidden size H and the experts' width
    I rounded up to a multiple of 64.
    """

    up: Tensor
    up_scale: Tensor
    down: Tensor
    down_scale: Tensor
    hidden: int
    width: int
    group: int

    @property
    def count(self) -> int:
        """Experts held here: all, or one rank's."""
        return self.up.shape[0]

    @property
    def bytes(self) -> int:
        """Bytes of weights and scales."""
        tensors = (self.up, self.up_scale, self.down, self.down_scale)
        return sum(tensor.nbytes for tensor in tensors)


def shapes(
    count: int, hidden: int, width: int, group: int
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each tensor of `PackedExperts`, by its name."""

    def matrix(rows: int, columns: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        wide = padded(columns)
        scales = max(columns // group, wide // group)
        return [
            ((count, wide // BLOCK_K, rows, DEPTH), torch.int16),
            ((count, scales, rows), torch.float32),
        ]

    names = ("up", "up_scale", "down", "down_scale")
    return dict(zip(names, matrix(width, hidden) + matrix(hidden, width), strict=True))


def pack(up: Tensor, up_scale: Tensor, down: Tensor, down_scale: Tensor) -> PackedExperts:
    """Stored weights, stacked over experts, in the kernels' layout; on the device they are on.

    `up` uint8 [E, I/2, H], `up_scale` float32 [E, I, H/g], `down` uint8 [E, H/2, I], `down_scale`
    float32 [E, H, I/g]. Raises `PackError` where shapes or dtypes do not fit together, or a scale
    is not finite. Works expert by expert: beside the result it needs memory for one unpacked
    expert.
    """
    count, width, hidden = _shape("up", up)
    if _shape("down", down) != (count, hidden, width):
        raise PackError(
            f"down is {list(down.shape)} where [{count}, {hidden // 2}, {width}] belongs to "
            f"up of {list(up.shape)}"
        )
    group = _group("up", up_scale, count, width, hidden)
    if _group("down", down_scale, count, hidden, width) != group:
        raise PackError("up_scale and down_scale have different group sizes")
    return PackedExperts(
        up=_pack_words(up),
        up_scale=_pack_scales("up_scale", up_scale, hidden, group),
        down=_pack_words(down),
        down_scale=_pack_scales("down_scale", down_scale, width, group),
        hidden=hidden,
        width=width,
        group=group,
    )


def unpack(experts: PackedExperts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four stored tensors that `pack` was given, byte for byte."""
    return (
        _unpack_words(experts.up, experts.hidden),
        _unpack_scales(experts.up_scale, experts.hidden, experts.group),
        _unpack_words(experts.down, experts.width),
        _unpack_scales(experts.down_scale, experts.width, experts.group),
    )


def decode(words: Tensor, scale: Tensor, columns: int, group: int) -> Tensor:
    """One expert's matrix: words int16 [K'/64, N, 16], scale [K'/g, N] -> float32 [N, columns]."""
    planes = [(words >> (4 * j)) & 0xF for j in range(PLANES)]
    values = torch.stack(planes, dim=2).permute(1, 0, 2, 3).reshape(words.shape[1], -1) - _ZERO
    scaled = values.float() * scale.t().repeat_interleave(group, dim=1)
    return scaled[:, :columns]


def padded(columns: int) -> int:
    """`columns` rounded up to whole blocks."""
    return -(-columns // BLOCK_K) * BLOCK_K


def _shape(name: str, stored: Tensor) -> tuple[int, int, int]:
    """(experts, rows, columns) of the matrices that a stored tensor holds."""
    if stored.dtype is not torch.uint8 or stored.dim() != 3:
        raise PackError(
            f"{name} is {stored.dtype} {list(stored.shape)}; uint8 [experts, rows / 2, columns] "
            "is expected"
        )
    count, pairs, columns = stored.shape
    return count, 2 * pairs, columns


def _group(name: str, scale: Tensor, count: int, rows: int, columns: int) -> int:
    """The group size that a scale's shape implies."""
    wanted = [[count, rows, columns // group] for group in GROUPS if columns % group == 0]
    if scale.dtype is not torch.float32 or list(scale.shape) not in wanted:
        raise PackError(
            f"{name}_scale is {scale.dtype} {list(scale.shape)}; float32 in one of the shapes "
            f"{wanted} is expected (groups of {', '.join(map(str, GROUPS))})"
        )
    return columns // scale.shape[2]


def _pack_words(stored: Tensor) -> Tensor:
    """uint8 [E, N/2, K] -> int16 [E, K'/64, N, 16]."""
    count, rows, columns = _shape("weight", stored)
    blocks = padded(columns) // BLOCK_K
    packed = stored.new_empty(count, blocks, rows, DEPTH, dtype=torch.int16)
    for expert in range(count):
        nibbles = stored.new_full((rows, blocks * BLOCK_K), _ZERO)
        # Two's complement with the sign bit turned is the value plus 8.
        nibbles[0::2, :columns] = (stored[expert] & 0xF) ^ _ZERO
        nibbles[1::2, :columns] = (stored[expert] >> 4) ^ _ZERO
        planes = nibbles.view(rows, blocks, PLANES, DEPTH).to(torch.int16)
        words = planes[:, :, 0].clone()
        for j in range(1, PLANES):
            words |= planes[:, :, j] << (4 * j)
        packed[expert] = words.transpose(0, 1)
    return packed


def _unpack_words(packed: Tensor, columns: int) -> Tensor:
    """int16 [E, K'/64, N, 16] -> uint8 [E, N/2, K]."""
    count, _, rows, _ = packed.shape
    stored = packed.new_empty(count, rows // 2, columns, dtype=torch.uint8)
    for expert in range(count):
        planes = [(packed[expert] >> (4 * j)) & 0xF for j in range(PLANES)]
        nibbles = torch.stack(planes, dim=2).permute(1, 0, 2, 3).reshape(rows, -1)
        nibbles = nibbles[:, :columns].to(torch.uint8) ^ _ZERO
        stored[expert] = nibbles[0::2] | (nibbles[1::2] << 4)
    return stored


def _pack_scales(name: str, scale: Tensor, columns: int, group: int) -> Tensor:
    """float32 [E, N, K/g] -> [E, K'/g, N], zero where K was filled up. Raises `PackError` for one
    that is no finite number: whatever it scales would be lost."""
    wrong = (~scale.isfinite()).nonzero()
    if len(wrong):
        expert, row, place = wrong[0].tolist()
        raise PackError(
            f"{name} holds {float(scale[expert, row, place])} at [{expert}, {row}, {place}] and "
            f"{len(wrong)} values in all that are no finite numbers"
        )
    count, rows, groups = scale.shape
    packed = scale.new_zeros(count, max(groups, padded(columns) // group), rows)
    packed[:, :groups] = scale.transpose(1, 2)
    return packed


def _unpack_scales(packed: Tensor, columns: int, group: int) -> Tensor:
    """[E, K'/g, N] -> float32 [E, N, K/g]."""
    return packed[:, : columns // group].transpose(1, 2).contiguous()
