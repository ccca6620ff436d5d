"""Encode and decode one tensor, in the layouts that engines read.

Byte-equal to ModelOpt 0.47 where the layout is ModelOpt's, decodable by the package
`compressed-tensors` where it is vLLM's (both held by tests). Depends on torch alone: a copy of this
file travels in every bundle, where the reference executor decodes with it.

- FP8 E4M3, per tensor: `weight` float8_e4m3fn [N, K]; `weight_scale` f32 [] = amax / 448.
- INT4, symmetric, groups of g along K: `weight` uint8 [N/2, K], low nibble row 2i and high nibble
  row 2i+1 in two's complement; `weight_scale` f32 [N, K/g] = the group's amax, cut to BF16, / 7.
- INT8, symmetric, groups of g along K or whole rows (g = 0, which is what ModelOpt knows):
  `weight` int8 [N, K]; `weight_scale` f32 [N, K/g] or [N] = the group's amax / 127.
- The same integers packed along K, b bits each: `weight_packed` int32 [N, K*b/32], from the low
  bits up, each plus 2^(b-1); `weight_scale` bf16 [N, K/g], [N, 1] for whole rows; `weight_shape`
  int64 [2] = (N, K).
- NVFP4 (E2M1), groups of 16 along K: `weight` uint8 [N, K/2], low nibble first; `weight_scale`
  float8_e4m3fn [N, K/16]; `weight_scale_2` f32 [] = amax / (6 x 448).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

FP8_MAX: Final = 448.0
"""Largest finite E4M3 value."""

INT4_MAX: Final = 7.0
"""Scales map a group's largest magnitude to 7; -8 is only reached by rounding."""

INT8_MAX: Final = 127.0
"""Scales map a group's largest magnitude to 127."""

E2M1_MAX: Final = 6.0
"""Largest E2M1 value."""

E2M1_VALUES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of the codes 0 to 7; code 8 + c is the negative of c."""

NVFP4_GROUP: Final = 16

SCALE_SUFFIXES: Final = (
    "weight_scale", "weight_scale_2", "weight_shape", "input_scale", "k_scale", "v_scale",
)  # fmt: skip
"""Tensors that describe a quantized neighbour and are no parameters of the model."""

E4M3_SHIFT: Final = 256.0
"""FP16's exponent bias over E4M3's, as a factor."""

_BF16_BITS: Final = -0x10000
"""Of a float32 number, sign, exponent, and as much of its mantissa as BF16 has."""

_ROUNDING: Final = 2
"""Units in the last place by which a BF16 number times 7 over 7 may be off in float32."""

_ELEMENTS_AT_ONCE: Final = 1 << 18
"""Values encoded together: the float32 intermediates of a block stay in a core's cache."""


@dataclass(slots=True)
class Deviation:
    """How far stored values are from exact ones: sums of squares, over one or more tensors."""

    error: float = 0.0
    power: float = 0.0

    @property
    def relative(self) -> float:
        """The Frobenius norm of the error over that of the exact values."""
        return math.sqrt(self.error / self.power) if self.power else 0.0

    def add(self, other: Deviation) -> None:
        """Count `other` in."""
        self.error += other.error
        self.power += other.power


class EncodeError(ValueError):
    """A tensor cannot be encoded: its shape does not divide, or its values are not usable."""


def fp8_scale(amax: Tensor) -> Tensor:
    """The FP8 scale for a largest magnitude `amax` (any shape), float32."""
    return amax.float() / FP8_MAX


def encode_fp8(weight: Tensor, deviation: Deviation | None = None) -> tuple[Tensor, Tensor]:
    """FP8 of `weight` [N, K] -> (float8_e4m3fn [N, K], scale f32 []).

    As in ModelOpt the quotient is taken in the weight's own dtype: dividing BF16 by a scalar rounds
    to BF16 before it rounds to E4M3. `deviation`, here and below, is told what rounding cost.
    Raises `EncodeError` for NaN, infinite or all-zero weights.
    """
    scale = fp8_scale(_tensor_amax(weight))
    stored = torch.empty_like(weight, dtype=torch.float8_e4m3fn)
    for start, stop in _blocks(weight):
        stored[start:stop] = weight[start:stop] / scale
        if deviation is not None:
            exact = weight[start:stop].float()
            values = shifted_e4m3(stored[start:stop])
            _count(deviation, exact.sub(values, alpha=float(scale) * E4M3_SHIFT), exact)
    return stored, scale


def shifted_e4m3(stored: Tensor) -> Tensor:
    """Values of E4M3 numbers that are not NaN, over `E4M3_SHIFT`; float32, ten times faster than
    torch's own cast.

    Sign, exponent and mantissa are moved to where FP16 has them, whose exponents begin at -15
    instead of -7.
    """
    bits = stored.view(torch.int8).to(torch.int16)
    return bits.bitwise_left_shift_(7).bitwise_and_(~0x4000).view(torch.float16).float()


def decode_fp8(stored: Tensor, scale: Tensor) -> Tensor:
    """Values of an FP8 tensor, float32."""
    return stored.float() * scale.float()


def encode_int4(
    weight: Tensor, group_size: int, deviation: Deviation | None = None
) -> tuple[Tensor, Tensor]:
    """INT4 of `weight` [N, K] -> (uint8 [N/2, K], scale f32 [N, K/group_size]).

    Raises `EncodeError` where N is odd, K is no multiple of the group, or a group is all zero, NaN
    or infinite.
    """
    rows, columns = weight.shape
    if rows % 2:
        raise EncodeError(f"its output width {rows} is odd; two rows share a byte")
    packed = weight.new_empty(rows // 2, columns, dtype=torch.uint8)

    def pack(start: int, stop: int, values: Tensor) -> None:
        pack_int4(values, out=packed[start // 2 : stop // 2])

    scale = _encode_groups(weight, group_size, INT4_MAX, torch.float32, pack, deviation, cut=True)
    return packed, scale


def pack_int4(values: Tensor, out: Tensor | None = None) -> Tensor:
    """Integers from -8 to 7 (8 bits each, [N, K]), two rows a byte -> uint8 [N/2, K]."""
    values = values.view(torch.uint8)
    packed = torch.bitwise_left_shift(values[1::2], 4, out=out)
    packed |= values[0::2] & 0x0F
    return packed


def encode_int8(
    weight: Tensor, group_size: int, deviation: Deviation | None = None
) -> tuple[Tensor, Tensor]:
    """INT8 of `weight` [N, K] -> (int8 [N, K], scale f32 [N, K/group_size], or [N] for group 0).

    Raises `EncodeError` where K is no multiple of the group, or a group is all zero, NaN or
    infinite.
    """
    stored = torch.empty_like(weight, dtype=torch.int8)

    def pack(start: int, stop: int, values: Tensor) -> None:
        stored[start:stop] = values.view(torch.int8)

    scale = _encode_groups(weight, group_size, INT8_MAX, torch.float32, pack, deviation)
    return stored, scale if group_size else scale.squeeze(1)


def encode_int8_columns(
    weight: Tensor, group_size: int, deviation: Deviation | None = None
) -> tuple[Tensor, Tensor]:
    """INT8 of `weight` [N, K], four columns a word -> (int32 [N, K/4], scale bf16 [N, K/g], or
    [N, 1] for group 0).

    The integers are rounded against the scale as it is stored. Raises as `encode_int8`, and for a
    group so small that its scale is zero in BF16.
    """
    stored = torch.empty_like(weight, dtype=torch.uint8)

    def pack(start: int, stop: int, values: Tensor) -> None:
        torch.bitwise_xor(values, 0x80, out=stored[start:stop])

    scale = _encode_groups(weight, group_size, INT8_MAX, torch.bfloat16, pack, deviation)
    return stored.view(torch.int32), scale


def encode_int4_columns(
    weight: Tensor, group_size: int, deviation: Deviation | None = None
) -> tuple[Tensor, Tensor]:
    """INT4 of `weight` [N, K], eight columns a word -> (int32 [N, K/8], scale bf16 [N, K/g]).

    The integers are rounded against the scale as it is stored. Raises as `encode_int4`, and for a
    group so small that its scale is zero in BF16.
    """
    rows, columns = weight.shape
    packed = weight.new_empty(rows, columns // 2, dtype=torch.uint8)

    def pack(start: int, stop: int, values: Tensor) -> None:
        # Two neighbours as one 16-bit word: the shift brings the second beside the first.
        words = values.add_(8).view(torch.int16)
        packed[start:stop] = words | (words >> 4)

    scale = _encode_groups(weight, group_size, INT4_MAX, torch.bfloat16, pack, deviation)
    return packed.view(torch.int32), scale


def _encode_groups(
    weight: Tensor,
    group_size: int,
    largest: float,
    scale_dtype: torch.dtype,
    pack: Callable[[int, int, Tensor], None],
    deviation: Deviation | None,
    cut: bool = False,
) -> Tensor:
    """Round `weight` to -largest-1..largest per group, hand each block of rows to
    `pack(start, stop, values)` as uint8 in two's complement; gives the scales [N, K/group_size],
    [N, 1] for group 0.

    A scale is the group's largest magnitude over `largest`. With `cut`, that magnitude is cut to
    BF16, which changes nothing where weights are BF16: kernels can then hold it in 16 bits.
    """
    rows, columns = weight.shape
    group_size = group_size or columns
    if columns % group_size:
        raise EncodeError(
            f"its input width {columns} is not a multiple of the group size {group_size}"
        )
    scale = weight.new_empty(rows, columns // group_size, dtype=scale_dtype)
    for start, stop in _blocks(weight):
        groups = _float_copy(weight[start:stop]).view(stop - start, -1, group_size)
        amax = groups.abs().amax(dim=-1)
        if cut:
            amax = ((amax.view(torch.int32) + _ROUNDING) & _BF16_BITS).view(torch.float32)
        scale[start:stop] = amax / largest
        steps = scale[start:stop].float().unsqueeze(-1)
        if deviation is not None:
            deviation.power += _squares(groups)
        groups /= steps
        rounded = groups.round().clamp_(-largest - 1, largest)
        if deviation is not None:
            deviation.error += _squares(groups.sub_(rounded).mul_(steps))
        values = rounded.to(torch.int8)
        pack(start, stop, values.view(stop - start, columns).view(torch.uint8))
    _require_usable_groups(scale, group_size)
    return scale


def decode_int4(packed: Tensor, scale: Tensor) -> Tensor:
    """Values of an INT4 tensor: `packed` uint8 [N/2, K], `scale` [N, K/g] -> float32 [N, K]."""
    return _scaled(unpack_int4(packed).float(), scale)


def unpack_int4(packed: Tensor) -> Tensor:
    """The integers of `packed` uint8 [N/2, K] -> int8 [N, K]."""
    low = (packed << 4).view(torch.int8) >> 4
    high = packed.view(torch.int8) >> 4
    return torch.stack((low, high), dim=1).view(-1, packed.shape[1])


def decode_int4_columns(packed: Tensor, scale: Tensor) -> Tensor:
    """Values of an INT4 tensor: `packed` int32 [N, K/8], `scale` [N, K/g] -> float32 [N, K]."""
    return _scaled(unpack_int4_columns(packed).float(), scale)


def pack_columns(values: Tensor, bits: int) -> Tensor:
    """Integers of 4 or 8 bits (int8 [N, K]) in words of columns -> int32 [N, K * bits / 32]."""
    if bits == 8:
        return torch.bitwise_xor(values.view(torch.uint8), 0x80).view(torch.int32)
    nibbles = (values + 8).view(torch.uint8)
    return (nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)).view(torch.int32)


def unpack_int4_columns(packed: Tensor) -> Tensor:
    """The integers of `packed` int32 [N, K/8] -> int8 [N, K]."""
    return _halves(packed.view(torch.uint8)).view(torch.int8).sub_(8)


def decode_int8(stored: Tensor, scale: Tensor) -> Tensor:
    """Values of an INT8 tensor: int8 [N, K], `scale` [N, K/g] or [N] -> float32 [N, K]."""
    return _scaled(stored.float(), scale.view(stored.shape[0], -1))


def decode_int8_columns(packed: Tensor, scale: Tensor) -> Tensor:
    """Values of an INT8 tensor: `packed` int32 [N, K/4], `scale` [N, K/g] -> float32 [N, K]."""
    return _scaled(unpack_int8_columns(packed).float(), scale)


def unpack_int8_columns(packed: Tensor) -> Tensor:
    """The integers of `packed` int32 [N, K/4] -> int8 [N, K]."""
    return torch.bitwise_xor(packed.view(torch.uint8), 0x80).view(torch.int8)


def encode_nvfp4(
    weight: Tensor, deviation: Deviation | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """NVFP4 of `weight` [N, K] -> (uint8 [N, K/2], scale float8_e4m3fn [N, K/16], scale_2 f32 []).

    A group that is all zero gets the scale 1, as ModelOpt gives it. Raises `EncodeError` where K is
    no multiple of 16, or for NaN, infinite or all-zero weights.
    """
    rows, columns = weight.shape
    if columns % NVFP4_GROUP:
        raise EncodeError(f"its input width {columns} is not a multiple of {NVFP4_GROUP}")
    scale_2 = _tensor_amax(weight).float() / (E2M1_MAX * FP8_MAX)
    packed = weight.new_empty(rows, columns // 2, dtype=torch.uint8)
    scale = weight.new_empty(rows, columns // NVFP4_GROUP, dtype=torch.float8_e4m3fn)
    for start, stop in _blocks(weight):
        groups = _float_copy(weight[start:stop]).view(stop - start, -1, NVFP4_GROUP)
        wanted = groups.abs().amax(dim=-1) / (E2M1_MAX * scale_2)
        wanted[wanted == 0] = 1.0
        scale[start:stop] = wanted.clamp_(2**-9, FP8_MAX)
        groups /= (scale[start:stop].float() * scale_2).unsqueeze(-1)
        words = _e2m1_codes(groups).view(stop - start, columns).view(torch.int16)
        packed[start:stop] = words | (words >> 4)
        if deviation is not None:
            exact = weight[start:stop].float()
            found = decode_nvfp4(packed[start:stop], scale[start:stop], scale_2)
            _count(deviation, found.sub_(exact), exact)
    return packed, scale, scale_2


def _e2m1_codes(values: Tensor) -> Tensor:
    """The nearest E2M1 code of each value, ties to the even one; uint8."""
    magnitude = values.abs()
    codes = torch.zeros_like(values, dtype=torch.uint8)
    for index, (low, high) in enumerate(pairwise(E2M1_VALUES)):
        middle = (low + high) / 2
        codes += magnitude >= middle if index % 2 else magnitude > middle
    codes += (values < 0).to(torch.uint8) << 3
    return codes


def decode_nvfp4(packed: Tensor, scale: Tensor, scale_2: Tensor) -> Tensor:
    """Values of an NVFP4 tensor as `encode_nvfp4` gives it, float32 [N, K]."""
    table = torch.tensor([*E2M1_VALUES, *(-value for value in E2M1_VALUES)])
    return _scaled(table[_halves(packed).int()], scale.float() * scale_2.float())


def _halves(packed: Tensor) -> Tensor:
    """Nibbles of uint8 [N, B], low one first -> uint8 [N, 2B]."""
    return torch.stack((packed & 0x0F, packed >> 4), dim=-1).view(packed.shape[0], -1)


def _scaled(values: Tensor, scale: Tensor) -> Tensor:
    """`values` [N, K] times the scale of their group, `scale` [N, K/g]; float32."""
    groups = values.view(*scale.shape, -1) * scale.float().unsqueeze(-1)
    return groups.view(values.shape)


def decode(
    stored: Tensor, scale: Tensor, scale_2: Tensor | None = None, shape: Tensor | None = None
) -> Tensor:
    """Values of a quantized tensor of any format, float32 [N, K].

    Formats are told apart by dtype and scales, and packed columns by `shape`, the (N, K) stored
    beside them: INT8 has four a word, INT4 eight. Raises ValueError where that is missing.
    """
    if stored.dtype is torch.int32:
        if shape is None:
            raise ValueError("a tensor of packed columns is stored without its weight_shape")
        in_fours = int(shape[1]) == 4 * stored.shape[1]
        return (decode_int8_columns if in_fours else decode_int4_columns)(stored, scale)
    if stored.dtype is torch.int8:
        return decode_int8(stored, scale)
    if stored.dtype is torch.uint8:
        return (
            decode_int4(stored, scale) if scale_2 is None else decode_nvfp4(stored, scale, scale_2)
        )
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
        scale = tensors.get(f"{prefix}.weight_scale")
        if scale is not None and suffix in ("weight", "weight_packed"):
            name = f"{prefix}.weight"
            others = (
                tensors.get(f"{prefix}.{other}") for other in ("weight_scale_2", "weight_shape")
            )
            tensor = decode(tensor, scale, *others).to(dtype)
        decoded[name] = tensor
    return decoded


def _count(deviation: Deviation, difference: Tensor, exact: Tensor) -> None:
    deviation.error += _squares(difference)
    deviation.power += _squares(exact)


def _squares(values: Tensor) -> float:
    """Sum of the squares of float32 values."""
    flat = values.view(-1)
    return float(torch.dot(flat, flat))


def _float_copy(weight: Tensor) -> Tensor:
    """`weight` as a float32 tensor of its own, to be worked on in place."""
    return weight.to(torch.float32, copy=True)


def _blocks(weight: Tensor) -> list[tuple[int, int]]:
    """Row ranges of `weight` to be encoded one after the other; all but the last are even."""
    rows, columns = weight.shape
    step = max(2, _ELEMENTS_AT_ONCE // max(1, columns) // 2 * 2)
    return [(start, min(rows, start + step)) for start in range(0, rows, step)]


def _tensor_amax(weight: Tensor) -> Tensor:
    """Largest magnitude of `weight`, in its dtype; refuses what has no usable one."""
    low, high = torch.aminmax(weight)
    amax = torch.maximum(-low, high)
    if not bool(torch.isfinite(amax)):
        raise EncodeError("it holds NaN or infinite values")
    if not bool(amax > 0):
        raise EncodeError("it is all zero and has no scale")
    return amax


def _require_usable_groups(scale: Tensor, group_size: int) -> None:
    """Refuse the first group whose scale is no positive number, by its place."""
    bad = ~(torch.isfinite(scale) & (scale > 0))
    if not bool(bad.any()):
        return
    row, group = (int(index) for index in bad.nonzero()[0])
    found = scale[row, group]
    what = (
        "is all zero, or too small, and has no scale"
        if bool(torch.isfinite(found))
        else "holds NaN or infinite values"
    )
    first = group * group_size
    raise EncodeError(
        f"the group in row {row}, columns {first} to {first + group_size - 1}, {what}"
    )
