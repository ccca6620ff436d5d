"""Encoding and decoding one tensor: properties that hold whatever the weights are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.runtime import formats

GROUPED = {
    "int4": formats.encode_int4,
    "int4 columns": formats.encode_int4_columns,
    "int8": formats.encode_int8,
    "int8 columns": formats.encode_int8_columns,
}


@st.composite
def weights(draw: st.DrawFn) -> torch.Tensor:
    """Random BF16 weights [N, K] of any magnitude, K a multiple of 64."""
    rows = 2 * draw(st.integers(1, 5))
    columns = 64 * draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    magnitude = 10.0 ** draw(st.integers(-6, 4))
    return (torch.randn(rows, columns, generator=generator) * magnitude).bfloat16()


@given(weight=weights(), group=st.sampled_from([32, 64]))
def test_int4_is_within_half_a_step_of_the_weight(weight: torch.Tensor, group: int) -> None:
    packed, scale = formats.encode_int4(weight, group)
    assert packed.shape == (weight.shape[0] // 2, weight.shape[1])
    assert scale.shape == (weight.shape[0], weight.shape[1] // group)
    step = scale.repeat_interleave(group, dim=1)
    error = (formats.decode_int4(packed, scale) - weight.float()).abs()
    assert bool((error <= step * (0.5 + 1e-6)).all())


@given(weight=weights())
def test_int4_decodes_the_largest_of_a_group_exactly_enough(weight: torch.Tensor) -> None:
    packed, scale = formats.encode_int4(weight, 64)
    decoded = formats.decode_int4(packed, scale).view(*scale.shape, 64)
    amax = weight.float().view(*scale.shape, 64).abs().amax(-1)
    torch.testing.assert_close(decoded.abs().amax(-1), amax, rtol=1e-6, atol=0)


@given(weight=weights(), noise=st.floats(0, 0.01))
def test_int4_scales_are_bf16_numbers_over_seven(weight: torch.Tensor, noise: float) -> None:
    """Of BF16 weights they are what ModelOpt computes; of others, which smoothing makes, a value is
    off by no more than half a step, or by what its group's largest lost."""
    exact = weight.float() * (1 + noise * torch.rand(weight.shape))
    for given_weight in (weight, exact):
        packed, scale = formats.encode_int4(given_weight, 64)
        assert torch.equal((scale * 7).bfloat16().float() / 7, scale)
        amax = given_weight.float().view(*scale.shape, 64).abs().amax(-1)
        assert bool((scale * 7 <= amax * (1 + 1e-6)).all())
        assert bool((scale * 7 > amax * (1 - 2**-7)).all())
        error = (formats.decode_int4(packed, scale) - given_weight.float()).abs()
        assert bool((error <= scale.repeat_interleave(64, dim=1) * (0.5 + 1e-6)).all())
    _, scale = formats.encode_int4(weight, 64)
    assert torch.equal(scale, weight.float().view(*scale.shape, 64).abs().amax(-1) / 7)


@given(nibbles=st.lists(st.integers(-8, 7), min_size=64, max_size=64), scale=st.floats(1e-3, 1e3))
def test_every_int4_value_is_decoded_by_hand_too(nibbles: list[int], scale: float) -> None:
    low, high = torch.tensor(nibbles), torch.tensor(nibbles[::-1])
    packed = ((low & 15) | ((high & 15) << 4)).to(torch.uint8).unsqueeze(0)
    decoded = formats.decode_int4(packed, torch.full((2, 1), scale))
    expected = torch.stack((low, high)).float() * torch.tensor(scale)
    assert torch.equal(decoded, expected)


@given(weight=weights(), group=st.sampled_from([32, 64, 0]))
def test_int8_is_within_half_a_step_of_the_weight(weight: torch.Tensor, group: int) -> None:
    rows, columns = weight.shape
    stored, scale = formats.encode_int8(weight, group)
    assert (stored.dtype, stored.shape) == (torch.int8, weight.shape)
    assert scale.shape == ((rows, columns // group) if group else (rows,))
    step = scale.view(rows, -1).repeat_interleave(group or columns, dim=1)
    error = (formats.decode_int8(stored, scale) - weight.float()).abs()
    assert bool((error <= step * (0.5 + 1e-5)).all())


@given(scale=st.floats(1e-3, 1e3))
def test_every_int8_value_is_decoded_by_hand_too(scale: float) -> None:
    values = torch.arange(-128, 128)
    expected = (values.float() * torch.tensor(scale)).unsqueeze(0)
    stored = values.to(torch.int8).unsqueeze(0)
    assert torch.equal(formats.decode_int8(stored, torch.full((1, 4), scale)), expected)
    assert torch.equal(formats.decode_int8(stored, torch.full((1,), scale)), expected)
    # The columns' words, by arithmetic: value j plus 128 in the bits from 8j on.
    columns = (values.view(-1, 4) + 128) * torch.tensor([1 << 8 * j for j in range(4)])
    words = columns.sum(1)
    packed = (words - ((words >> 31) << 32)).to(torch.int32).unsqueeze(0)
    decoded = formats.decode(packed, torch.full((1, 4), scale), shape=torch.tensor([1, 256]))
    assert torch.equal(decoded, expected)


def test_packed_columns_without_their_shape_are_refused() -> None:
    packed, scale = formats.encode_int8_columns(torch.randn(2, 64), 64)
    with pytest.raises(ValueError, match="without its weight_shape"):
        formats.decode(packed, scale)


@given(weight=weights())
def test_fp8_is_close_and_never_overflows(weight: torch.Tensor) -> None:
    stored, scale = formats.encode_fp8(weight)
    decoded = formats.decode_fp8(stored, scale)
    assert bool(torch.isfinite(decoded).all())
    error = (decoded - weight.float()).norm() / weight.float().norm()
    assert float(error) < 0.04


@given(weight=weights())
def test_encoding_what_was_decoded_changes_nothing(weight: torch.Tensor) -> None:
    packed, scale = formats.encode_int4(weight, 64)
    again, scale_again = formats.encode_int4(formats.decode_int4(packed, scale), 64)
    torch.testing.assert_close(scale_again, scale, rtol=1e-6, atol=0)
    assert torch.equal(again, packed)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("encode", [formats.encode_fp8, lambda w: formats.encode_int4(w, 64)])
def test_values_that_are_no_numbers_are_refused(
    encode: Callable[[torch.Tensor], object], bad: float
) -> None:
    weight = torch.ones(4, 128, dtype=torch.bfloat16)
    weight[3, 100] = bad
    with pytest.raises(formats.EncodeError, match="NaN or infinite"):
        encode(weight)


def test_an_all_zero_group_is_refused() -> None:
    weight = torch.ones(4, 128, dtype=torch.bfloat16)
    weight[2, 64:] = 0
    with pytest.raises(formats.EncodeError, match="all zero"):
        formats.encode_int4(weight, 64)


@pytest.mark.parametrize(("shape", "message"), [((4, 100), "not a multiple"), ((3, 64), "odd")])
def test_shapes_that_do_not_pack(shape: tuple[int, int], message: str) -> None:
    with pytest.raises(formats.EncodeError, match=message):
        formats.encode_int4(torch.ones(shape, dtype=torch.bfloat16), 64)


def test_a_checkpoint_decodes_to_parameters_under_their_names() -> None:
    weight = torch.randn(4, 64).bfloat16()
    packed, scale = formats.encode_int4(weight, 64)
    stored, fp8_scale = formats.encode_fp8(weight)
    norm = torch.ones(4)
    decoded = formats.decode_checkpoint(
        {
            "a.weight": packed, "a.weight_scale": scale,
            "b.weight": stored, "b.weight_scale": fp8_scale, "b.input_scale": torch.tensor(1.0),
            "norm.weight": norm,
        }
    )  # fmt: skip
    assert set(decoded) == {"a.weight", "b.weight", "norm.weight"}
    assert decoded["norm.weight"] is norm
    assert torch.equal(decoded["a.weight"], formats.decode_int4(packed, scale).bfloat16())


def test_the_fast_decoding_of_e4m3_is_exact() -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    values = codes.float()
    finite = torch.isfinite(values)
    assert int(finite.sum()) == 254
    assert torch.equal(formats.shifted_e4m3(codes)[finite] * formats.E4M3_SHIFT, values[finite])


@given(
    rows=st.integers(1, 5).map(lambda n: 2 * n),
    groups=st.integers(1, 4),
    scale=st.floats(1e-6, 1e4),
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["fp8", "nvfp4", *GROUPED]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_what_an_encoder_says_it_cost_is_what_decoding_shows(
    rows: int, groups: int, scale: float, seed: int, kind: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(rows, groups * 64, generator=generator) * scale).to(dtype)
    before = weight.clone()
    deviation = formats.Deviation()
    if kind == "fp8":
        decoded = formats.decode(*formats.encode_fp8(weight, deviation))
    elif kind == "nvfp4":
        decoded = formats.decode(*formats.encode_nvfp4(weight, deviation))
    else:
        stored, scale_of_group = GROUPED[kind](weight, 64, deviation)
        shape = torch.tensor(weight.shape)
        decoded = formats.decode(stored, scale_of_group, shape=shape)
    assert torch.equal(weight, before), "an encoder changed its input"
    exact = weight.float()
    expected = float((decoded - exact).norm() / exact.norm())
    assert deviation.relative == pytest.approx(expected, rel=1e-4, abs=1e-7)
    other = formats.Deviation(deviation.error, deviation.power)
    other.add(deviation)
    assert other.relative == pytest.approx(deviation.relative)
