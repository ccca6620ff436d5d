"""Experts' weights: from the layout they are stored in to the one the kernels read, and back.

Stored, for a matrix [N, K] (`runtime/formats.py`): INT4 as uint8 [N/2, K], two output rows a byte
in two's complement, INT8 as int8 [N, K]; scales float32 [N, K/g], or [N] where each row has one
(group size 0). What a kernel wants is different: the tile that one step of its loop multiplies must
be one contiguous piece of memory, and an integer must become a 16-bit float without a conversion
instruction. So, with K in blocks of 64, b bits a weight, P = 16/b and D = 64/P:

    word[block, n, i] = sum over j of (q[n, 64 * block + D * j + i] + 2^(b-1)) << bj    j < P, i < D

A 16-bit word holds P values of one row that lie D apart: shifted right by bj and masked it is
*plane* j, D wide: the depth of one matrix instruction (INT4) or two (INT8). The planes side by side
are the block in its own order; no value changes place. Any run of rows within a block is
contiguous, 8b bytes a row. Scales are transposed, [K/g, N] or [1, N], so that a tile's are
contiguous too. Where K is an odd multiple of 32 the last block is filled with zeros, which cost
nothing but their bytes.

Scales take half of their bytes where all of a layer's are BF16 numbers over one divisor d
(`layout.SCALE_DIVISORS`): then the numbers are packed, those of rows n and n + 8 in one 32-bit
word, [K/g, N/2]. `n / d` in FP32 gives back each scale to the bit, which packing makes sure of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from .layout import (
    BLOCK_K,
    FP32_SCALES,
    GROUPS,
    ROW,
    ROW_PAIR,
    SCALE_DIVISORS,
    WORD_BITS,
    depth,
    planes,
    zero,
)

_STORED_BITS: Final = {torch.uint8: 4, torch.int8: 8}
"""Bits of a weight by the dtype it is stored in."""


class PackError(ValueError):
    """Weights that cannot be packed; the message names the tensor and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class PackedExperts:
    """The weights of one layer's experts, as the kernels read them.

    `up` int16 [E, H'/64, I, D], `up_scale` float32 [E, H'/g, I], `down` int16 [E, I'/64, H, D],
    `down_scale` float32 [E, I'/g, H], where H' and I' are the hidden size H and the experts' width
    I rounded up to a multiple of 64, and D is 16 for INT4 and 32 for INT8. A group size g of 0
    stands for whole rows, which have one scale each. With `scale_divisor` > 0 scales are int32 [E,
    H'/g, I/2] and [E, I'/g, H/2], which hold two BF16 numbers a word, each scale times the divisor.
    """

    up: Tensor
    up_scale: Tensor
    down: Tensor
    down_scale: Tensor
    hidden: int
    width: int
    group: int
    scale_divisor: int

    @property
    def count(self) -> int:
        """Experts held here: all, or one rank's."""
        return self.up.shape[0]

    @property
    def bits(self) -> int:
        """Bits of a weight: 4 or 8."""
        return _bits(self.up)

    @property
    def bytes(self) -> int:
        """Bytes of weights and scales."""
        tensors = (self.up, self.up_scale, self.down, self.down_scale)
        return sum(tensor.nbytes for tensor in tensors)


def shapes(
    count: int, hidden: int, width: int, group: int, bits: int, scale_divisor: int
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each tensor of `PackedExperts`, by its name."""

    def matrix(rows: int, columns: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        return [
            ((count, padded(columns) // BLOCK_K, rows, depth(bits)), torch.int16),
            ((count, _scales(columns, group), rows), torch.float32)
            if scale_divisor == FP32_SCALES
            else ((count, _scales(columns, group), rows // 2), torch.int32),
        ]

    names = ("up", "up_scale", "down", "down_scale")
    return dict(zip(names, matrix(width, hidden) + matrix(hidden, width), strict=True))


def scale_divisor_of(bits: int, scales: Iterable[Tensor]) -> int:
    """The first divisor for weights of `bits` bits that makes all of these float32 scales BF16
    numbers over it, exactly; `FP32_SCALES` where none does."""
    fitting = list(SCALE_DIVISORS[bits])
    for scale in scales:
        fitting = [divisor for divisor in fitting if _numerators(scale, divisor) is not None]
        if not fitting:
            return FP32_SCALES
    return fitting[0]


def pack(
    up: Tensor,
    up_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    scale_divisor: int | None = None,
) -> PackedExperts:
    """Stored weights, stacked over experts, in the kernels' layout; on the device they are on.

    INT4: `up` uint8 [E, I/2, H], `down` uint8 [E, H/2, I]; INT8: `up` int8 [E, I, H], `down` int8
    [E, H, I]; `up_scale` float32 [E, I, H/g] and `down_scale` float32 [E, H, I/g], or [E, I] and
    [E, H] for whole rows. `scale_divisor` says how scales are kept; None: in 16 bits where that
    keeps them exactly. Raises `PackError` where shapes or dtypes do not fit together, a scale is
    not finite, or it is no BF16 number over the divisor that was asked for. Works expert by expert:
    beside the result it needs memory for one unpacked expert.
    """
    count, width, hidden = _shape("up", up)
    if down.dtype is not up.dtype or _shape("down", down) != (count, hidden, width):
        rows = hidden * _STORED_BITS[up.dtype] // 8
        raise PackError(
            f"down is {down.dtype} {list(down.shape)} where {up.dtype} [{count}, {rows}, {width}] "
            f"belongs to up of {list(up.shape)}"
        )
    group = _group("up", up_scale, count, width, hidden)
    if _group("down", down_scale, count, hidden, width) != group:
        raise PackError("up_scale and down_scale have different group sizes")
    for name, scale in (("up_scale", up_scale), ("down_scale", down_scale)):
        _require_finite(name, scale)
    if scale_divisor is None:
        scale_divisor = scale_divisor_of(_STORED_BITS[up.dtype], (up_scale, down_scale))
    return PackedExperts(
        up=_pack_words(up),
        up_scale=_pack_scales("up_scale", up_scale, hidden, group, scale_divisor),
        down=_pack_words(down),
        down_scale=_pack_scales("down_scale", down_scale, width, group, scale_divisor),
        hidden=hidden,
        width=width,
        group=group,
        scale_divisor=scale_divisor,
    )


def unpack(experts: PackedExperts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four stored tensors that `pack` was given, byte for byte."""
    divisor = experts.scale_divisor
    return (
        _unpack_words(experts.up, experts.hidden),
        _unpack_scales(experts.up_scale, experts.hidden, experts.group, divisor),
        _unpack_words(experts.down, experts.width),
        _unpack_scales(experts.down_scale, experts.width, experts.group, divisor),
    )


def decode(words: Tensor, scale: Tensor, columns: int, group: int, scale_divisor: int) -> Tensor:
    """One expert's matrix: words int16 [K'/64, N, D], scale as packed with `scale_divisor` [K'/g,
    N] or [K'/g, N/2] -> float32 [N, columns]."""
    values, scale = _values(words), _scale_values(scale, scale_divisor)
    scaled = values.float() * scale.t().repeat_interleave(group or values.shape[1], dim=1)
    return scaled[:, :columns]


def padded(columns: int) -> int:
    """`columns` rounded up to whole blocks."""
    return -(-columns // BLOCK_K) * BLOCK_K


def _shape(name: str, stored: Tensor) -> tuple[int, int, int]:
    """(experts, rows, columns) of the matrices that a stored tensor holds."""
    bits = _STORED_BITS.get(stored.dtype)
    if bits is None or stored.dim() != 3:
        raise PackError(
            f"{name} is {stored.dtype} {list(stored.shape)}; uint8 [experts, rows / 2, columns] "
            "(INT4) or int8 [experts, rows, columns] (INT8) is expected"
        )
    count, rows, columns = stored.shape
    return count, rows * 8 // bits, columns


def _group(name: str, scale: Tensor, count: int, rows: int, columns: int) -> int:
    """The group size that a scale's shape implies."""
    wanted: dict[tuple[int, ...], int] = {
        (count, rows, columns // group): group for group in GROUPS if columns % group == 0
    }
    if columns % BLOCK_K == 0:
        wanted[count, rows] = ROW
    if scale.dtype is not torch.float32 or tuple(scale.shape) not in wanted:
        raise PackError(
            f"{name}_scale is {scale.dtype} {list(scale.shape)}; float32 in one of the shapes "
            f"{[list(shape) for shape in wanted]} is expected (groups of "
            f"{', '.join(map(str, GROUPS))}, or whole rows)"
        )
    return wanted[tuple(scale.shape)]


def _scales(columns: int, group: int) -> int:
    """Scales of a packed row."""
    return 1 if group == ROW else max(columns // group, padded(columns) // group)


def _pack_words(stored: Tensor) -> Tensor:
    """uint8 [E, N/2, K] or int8 [E, N, K] -> int16 [E, K'/64, N, D]."""
    count, rows, columns = _shape("weight", stored)
    bits, blocks = _STORED_BITS[stored.dtype], padded(columns) // BLOCK_K
    packed = stored.new_empty(count, blocks, rows, depth(bits), dtype=torch.int16)
    for expert in range(count):
        codes = stored.new_full((rows, blocks * BLOCK_K), zero(bits), dtype=torch.uint8)
        # Two's complement with the sign bit turned is the value plus 2^(bits - 1).
        if bits == 4:
            codes[0::2, :columns] = (stored[expert] & 0xF) ^ zero(bits)
            codes[1::2, :columns] = (stored[expert] >> 4) ^ zero(bits)
        else:
            codes[:, :columns] = stored[expert].view(torch.uint8) ^ zero(bits)
        planed = codes.view(rows, blocks, planes(bits), depth(bits)).to(torch.int16)
        words = planed[:, :, 0].clone()
        for j in range(1, planes(bits)):
            words |= planed[:, :, j] << (bits * j)
        packed[expert] = words.transpose(0, 1)
    return packed


def _unpack_words(packed: Tensor, columns: int) -> Tensor:
    """int16 [E, K'/64, N, D] -> uint8 [E, N/2, K] or int8 [E, N, K]."""
    values = torch.stack([_values(words)[:, :columns].to(torch.int8) for words in packed])
    if _bits(packed) == 8:
        return values
    codes = values.view(torch.uint8)
    return (codes[:, 0::2] & 0xF) | (codes[:, 1::2] << 4)


def _values(words: Tensor) -> Tensor:
    """One expert's integers, filling included: int16 [K'/64, N, D] -> int16 [N, K']."""
    bits = _bits(words)
    planed = [(words >> (bits * j)) & ((1 << bits) - 1) for j in range(planes(bits))]
    return torch.stack(planed, dim=2).permute(1, 0, 2, 3).reshape(words.shape[1], -1) - zero(bits)


def _bits(words: Tensor) -> int:
    """Bits of a weight in packed words [.., D]."""
    return words.shape[-1] * WORD_BITS // BLOCK_K


def _require_finite(name: str, scale: Tensor) -> None:
    """Raise `PackError` for a scale that is no finite number: whatever it scales would be lost."""
    wrong = (~scale.isfinite()).nonzero()
    if len(wrong):
        place = wrong[0].tolist()
        raise PackError(
            f"{name} holds {float(scale[tuple(place)])} at {place} and "
            f"{len(wrong)} values in all that are no finite numbers"
        )


def _pack_scales(name: str, scale: Tensor, columns: int, group: int, divisor: int) -> Tensor:
    """float32 [E, N, K/g] or [E, N] -> float32 [E, K'/g, N] or int32 [E, K'/g, N/2], zero where K
    was filled up."""
    if divisor != FP32_SCALES:
        numerators = _numerators(scale, divisor)
        if numerators is None:
            raise PackError(f"{name} holds a scale that is no BF16 number over {divisor}")
        scale = numerators
    if group == ROW:
        packed = scale.unsqueeze(1).clone()
    else:
        count, rows, groups = scale.shape
        packed = scale.new_zeros(count, _scales(columns, group), rows)
        packed[:, :groups] = scale.transpose(1, 2)
    return packed if divisor == FP32_SCALES else _paired(packed)


def _unpack_scales(packed: Tensor, columns: int, group: int, divisor: int) -> Tensor:
    """What `_pack_scales` was given."""
    scale = _scale_values(packed, divisor)
    if group == ROW:
        return scale[:, 0].clone()
    return scale[:, : columns // group].transpose(1, 2).contiguous()


def _numerators(scale: Tensor, divisor: int) -> Tensor | None:
    """BF16 numbers that are `scale` times `divisor`, of which each gives back its scale in a
    division; None where there are none."""
    numerators = (scale * divisor).bfloat16()
    return numerators if torch.equal(_quotients(numerators, divisor), scale) else None


def _quotients(numerators: Tensor, divisor: int) -> Tensor:
    """BF16 numbers over `divisor`, float32. By a tensor: on CUDA, torch multiplies with a number's
    reciprocal where it is asked to divide by the number, and rounds twice."""
    return numerators.float() / torch.full((), divisor, device=numerators.device)


def _paired(numerators: Tensor) -> Tensor:
    """BF16 [.., N] -> int32 [.., N/2]: rows n and n + 8 of each 16 in one word, n in its lower
    half."""
    rows = numerators.shape[-1]
    strips = numerators.view(*numerators.shape[:-1], rows // (2 * ROW_PAIR), 2, ROW_PAIR)
    return strips.transpose(-1, -2).contiguous().view(torch.int32).flatten(-3)


def _scale_values(packed: Tensor, divisor: int) -> Tensor:
    """Packed scales, two a word or not, as float32 [.., N]."""
    if divisor == FP32_SCALES:
        return packed
    strips = packed.reshape(*packed.shape[:-1], packed.shape[-1] // ROW_PAIR, ROW_PAIR, 1)
    return _quotients(strips.view(torch.bfloat16).transpose(-1, -2).flatten(-3), divisor)
