"""The kernels' weight layout: invertible, decoded as the stored layout is, and documented truly."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nemotron_deploy.build.kernels import layout, packing
from nemotron_deploy.tests.kernels.layers import DIVISORS, stored, values

Shape = tuple[int, int, int, int, int, int, int]

DIGEST = "2171339b1dc597b249a439499c813ea695b3c560a37a1b3aed8266057308b35b"

shapes = st.sampled_from((*layout.GROUPS, layout.ROW)).flatmap(
    lambda group: st.tuples(
        st.integers(1, 4),
        st.integers(1, 4).map(lambda n: n * (group or layout.BLOCK_K)),
        st.integers(1, 4).map(lambda n: n * (group or layout.BLOCK_K)),
        st.just(group),
        st.integers(0, 2**31),
        st.sampled_from(DIVISORS),
    ).map(lambda drawn: (*drawn[:-1], *drawn[-1]))
)


def pack(tensors: dict[str, Tensor], divisor: int | None = None) -> packing.PackedExperts:
    up, up_scale, down, down_scale = tensors.values()
    return packing.pack(up, up_scale, down, down_scale, divisor)


@given(shapes)
def test_unpacking_gives_the_stored_bytes_back(shape: Shape) -> None:
    given_tensors = stored(*shape)
    for before, after in zip(
        given_tensors, packing.unpack(packing.pack(*given_tensors)), strict=True
    ):
        assert after.dtype is before.dtype
        assert torch.equal(after, before)


@given(shapes)
def test_packed_weights_decode_to_the_stored_values(shape: Shape) -> None:
    up, up_scale, down, down_scale = stored(*shape)
    packed = packing.pack(up, up_scale, down, down_scale)
    count, hidden, width, group, _, bits, divisor = shape
    assert (packed.count, packed.hidden, packed.width) == (count, hidden, width)
    assert (packed.group, packed.bits, packed.scale_divisor) == (group, bits, divisor)
    sizes = packing.shapes(count, hidden, width, group, bits, divisor)
    assert sizes == {
        name: (tuple(tensor.shape), tensor.dtype)
        for name in sizes
        for tensor in [getattr(packed, name)]
    }
    for expert in range(packed.count):
        ours = packing.decode(
            packed.up[expert], packed.up_scale[expert], packed.hidden, packed.group, divisor
        )
        assert torch.equal(ours, values(up[expert], up_scale[expert]))
        ours = packing.decode(
            packed.down[expert], packed.down_scale[expert], packed.width, packed.group, divisor
        )
        assert torch.equal(ours, values(down[expert], down_scale[expert]))


def test_a_word_holds_four_values_sixteen_apart() -> None:
    up, up_scale, down, down_scale = stored(2, 128, 64, 64)
    packed = packing.pack(up, up_scale, down, down_scale)
    integers = values(up[1], torch.ones_like(up_scale[1]))
    for block, row, i in ((0, 0, 0), (1, 63, 15), (1, 5, 7)):
        word = int(packed.up[1, block, row, i]) & 0xFFFF
        for j in range(4):
            assert (word >> 4 * j & 0xF) - 8 == integers[row, 64 * block + 16 * j + i]


def test_a_word_of_int8_holds_two_values_thirty_two_apart() -> None:
    packed = packing.pack(*stored(2, 128, 64, 64, bits=8))
    up, *_ = packing.unpack(packed)
    for block, row, i in ((0, 0, 0), (1, 63, 31), (1, 5, 7)):
        word = int(packed.up[1, block, row, i]) & 0xFFFF
        for j in range(2):
            assert (word >> 8 * j & 0xFF) - 128 == up[1, row, 64 * block + 32 * j + i]


def test_the_bytes_of_packed_int4_are_those_of_engines_that_were_built() -> None:
    """Kernels that were compiled before read them."""
    packed = packing.pack(*stored(2, 96, 64, 32, seed=7))
    digest = hashlib.sha256()
    for tensor in (packed.up, packed.up_scale, packed.down, packed.down_scale):
        digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest() == DIGEST


def test_an_odd_multiple_of_32_is_filled_with_zeros() -> None:
    packed = packing.pack(*stored(1, 96, 32, 32))
    assert packed.up.shape == (1, 2, 32, 16)
    assert packed.up_scale.shape == (1, 4, 32)
    assert not packed.up_scale[:, 3].any()
    whole = packing.decode(packed.up[0], packed.up_scale[0] + 1, 128, 32, layout.FP32_SCALES)
    assert not whole[:, 96:].any()


@pytest.mark.parametrize("bits", layout.BITS)
def test_the_layout_costs_no_bytes_where_widths_are_whole_blocks(bits: int) -> None:
    tensors = stored(3, 128, 192, 64, bits=bits)
    assert packing.pack(*tensors).bytes == sum(tensor.nbytes for tensor in tensors)
    up, up_scale, down, down_scale = stored(3, 128, 192, 64, bits=bits, scale_divisor=1)
    half = (up_scale.nbytes + down_scale.nbytes) // 2
    packed = packing.pack(up, up_scale, down, down_scale)
    assert packed.bytes == up.nbytes + down.nbytes + half


@pytest.mark.parametrize("divisor", sorted({divisor for _, divisor in DIVISORS if divisor}))
def test_every_bf16_number_over_a_divisor_comes_back(divisor: int) -> None:
    """All finite ones, of either sign and the smallest included."""
    numbers = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    finite = numbers.view(torch.bfloat16)
    finite = finite[finite.isfinite()].float()
    scales = torch.cat([finite, torch.zeros(-len(finite) % 512)]).view(1, 512, -1) / divisor
    count = scales.shape[2]
    up = torch.zeros(1, 256, 64 * count, dtype=torch.uint8)
    down = torch.zeros(1, 32 * count, 512, dtype=torch.uint8)
    down_scale = torch.full((1, 64 * count, 8), 3.0) / divisor
    packed = packing.pack(up, scales, down, down_scale, scale_divisor=divisor)
    assert packed.up_scale.dtype is torch.int32
    _, up_scale, _, again = packing.unpack(packed)
    assert torch.equal(up_scale, scales)
    assert torch.equal(again, down_scale)


def test_a_word_of_scales_holds_two_rows_eight_apart() -> None:
    up, up_scale, down, down_scale = stored(2, 128, 64, 64, scale_divisor=7)
    packed = packing.pack(up, up_scale, down, down_scale)
    for group, strip, i in ((0, 0, 0), (1, 3, 7), (1, 2, 5)):
        word = int(packed.up_scale[1, group, 8 * strip + i]) & 0xFFFFFFFF
        halves = torch.tensor([(word & 0xFFFF) << 16, word & 0xFFFF0000]).to(torch.int32)
        rows = 16 * strip + i, 16 * strip + i + 8
        assert torch.equal(halves.view(torch.float32) / 7, up_scale[1, rows, group])


@pytest.mark.parametrize("name", ["up_scale", "down_scale"])
def test_one_scale_that_would_change_keeps_all_in_fp32(name: str) -> None:
    """A checkpoint that others made, or one of an older encoding, is served as it is."""
    names = ("up", "up_scale", "down", "down_scale")
    tensors = dict(zip(names, stored(2, 128, 64, 64, scale_divisor=7), strict=True))
    assert pack(tensors).scale_divisor == 7
    scale = tensors[name][1, 9]
    scale[0] = torch.nextafter(scale[0], torch.tensor(1.0))
    packed = pack(tensors)
    assert (packed.scale_divisor, packed.up_scale.dtype) == (layout.FP32_SCALES, torch.float32)
    assert all(map(torch.equal, packing.unpack(packed), tensors.values()))
    with pytest.raises(packing.PackError, match=f"{name} holds a scale that is no BF16 number"):
        pack(tensors, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"up": torch.zeros(2, 32, 128)}, "up is torch.float32"),
        ({"down": torch.zeros(2, 64, 128, dtype=torch.uint8)}, "down is"),
        ({"up_scale": torch.ones(2, 64, 3)}, "up_scale is"),
        ({"up_scale": torch.ones(2, 64, 2, dtype=torch.float64)}, "up_scale is torch.float64"),
        ({"down_scale": torch.ones(2, 128, 2)}, "different group sizes"),
        ({"down_scale": torch.ones(2, 128)}, "different group sizes"),
        (
            {"down": torch.zeros(2, 128, 64, dtype=torch.int8)},
            r"down is torch.int8 \[2, 128, 64\] where torch.uint8 \[2, 64, 64\] belongs",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Tensor], message: str) -> None:
    names = ("up", "up_scale", "down", "down_scale")
    tensors = dict(zip(names, stored(2, 128, 64, 64), strict=True)) | change
    with pytest.raises(packing.PackError, match=message):
        pack(tensors)


@pytest.mark.parametrize("name", ["up_scale", "down_scale"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_scale_that_is_no_finite_number_is_refused_with_its_place(
    name: str, value: float
) -> None:
    tensors = dict(
        zip(("up", "up_scale", "down", "down_scale"), stored(2, 128, 64, 64), strict=True)
    )
    tensors[name][1, 9, 0] = value
    with pytest.raises(packing.PackError, match=rf"{name} holds {value} at \[1, 9, 0\]"):
        pack(tensors)
