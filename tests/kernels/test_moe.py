"""The kernels under Triton's interpreter, in FP16, against float64 on dequantized weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nemotron_deploy.build.kernels import layout, op, packing, steps
from nemotron_deploy.build.kernels.configs import (
    TILES,
    Tile,
    tile_for_dense,
    tile_for_pairs,
)
from nemotron_deploy.tests.kernels.layers import (
    BOUND,
    DIVISORS,
    Layer,
    activations,
    relative_error,
    stored,
)

TILES_TRIED = (
    None,
    Tile(8, 32, 2, 2),
    Tile(8, 64, 2, 6),
    Tile(16, 64, 2, 6, narrow_partials=True),
    Tile(32, 128, 4, 3),
    Tile(16, 32, 2, 4, unroll=2),
    Tile(8, 32, 4, 3, slices=4),
    Tile(16, 64, 4, 4, unroll=2, slices=2),
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Layer, Tensor, Tensor, Tensor, int, Tile | None]:
    """A layer, its input and choices: some experts get nothing, some ids are of another rank."""
    group = draw(st.sampled_from((*layout.GROUPS, layout.ROW)))
    unit = group or layout.BLOCK_K
    most = 256 // unit
    layer = Layer.random(
        draw(st.integers(1, 7)),
        unit * draw(st.integers(1, most)),
        unit * draw(st.integers(1, most)),
        group,
        draw(st.integers(0, 1 << 20)),
        *draw(st.sampled_from(DIVISORS)),
    )
    first = draw(st.sampled_from((0, 0, 3)))
    tokens, top_k = draw(st.integers(0, 24)), draw(st.integers(1, 4))
    names = st.integers(first - 1, first + layer.experts.count)
    popular = draw(st.lists(names, min_size=1, max_size=4))
    ids = draw(st.lists(st.sampled_from(popular), min_size=tokens * top_k, max_size=tokens * top_k))
    seed = draw(st.integers(0, 1 << 20))
    weights = torch.rand(tokens, top_k, generator=torch.Generator().manual_seed(seed))
    hidden = activations(tokens, layer.experts.hidden, seed)
    choices = torch.tensor(ids, dtype=torch.int32).view(tokens, top_k)
    return layer, hidden, choices, weights, first, draw(st.sampled_from(TILES_TRIED))


@pytest.mark.long
@settings(max_examples=30)
@given(problems())
def test_routed_experts_agree_with_float64(
    problem: tuple[Layer, Tensor, Tensor, Tensor, int, Tile | None],
) -> None:
    layer, hidden, ids, weights, first, tile = problem
    out = op.routed_kernels(hidden, ids, weights, layer.experts, first, tile)
    assert out.shape == hidden.shape
    assert out.dtype is torch.float16
    assert relative_error(out, layer.expected(hidden, ids, weights, first)) < BOUND


@settings(max_examples=12)
@given(problems())
def test_the_shared_expert_agrees_with_float64(
    problem: tuple[Layer, Tensor, Tensor, Tensor, int, Tile | None],
) -> None:
    layer, hidden, _, _, _, tile = problem
    same = layer.experts
    sizes = (1, same.hidden, same.width, same.group)
    one = Layer.random(*sizes, bits=same.bits, scale_divisor=same.scale_divisor)
    everybody = torch.zeros(len(hidden), 1, dtype=torch.int32)
    out = op.shared_kernels(hidden, one.experts, tile)
    expected = one.expected(hidden, everybody, torch.ones(len(hidden), 1))
    assert relative_error(out, expected) < BOUND


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 15, 16, 17])
@pytest.mark.parametrize(("bits", "divisor"), [(4, 7), (8, 127)])
def test_every_row_at_a_blocks_edge_is_right(rows: int, bits: int, divisor: int) -> None:
    """Row by row: one wrong row of many would hide in a norm over all."""
    layer = Layer.random(3, 64, 64, 64, bits=bits, scale_divisor=divisor)
    hidden = activations(rows, 64)
    ids = torch.ones(rows, 1, dtype=torch.int32)
    ids[rows // 2] = 2
    weights = torch.ones(rows, 1)
    out = op.routed_kernels(hidden, ids, weights, layer.experts, tile=Tile(8, 32, 2, 2))
    for got, wanted in zip(out, layer.expected(hidden, ids, weights), strict=True):
        assert relative_error(got, wanted) < BOUND


@pytest.mark.long
@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize(
    ("bits", "group", "divisor"), [(4, 64, 0), (4, 64, 7), (8, 64, 127), (8, layout.ROW, 0)]
)
def test_nanos_widths(tokens: int, bits: int, group: int, divisor: int) -> None:
    """2688 wide, 128 experts of 1856, 6 a token. Memory of experts nobody chooses stays unset."""
    experts, hidden_size, width = 128, 2688, 1856
    source = torch.Generator().manual_seed(tokens)
    chosen = torch.randperm(experts, generator=source)[:8]
    ids = torch.stack(
        [chosen[torch.randperm(8, generator=source)[:6]] for _ in range(tokens)]
    ).int()
    tensors: dict[str, torch.Tensor] = {}
    shapes = packing.shapes(experts, hidden_size, width, group, bits, divisor)
    for name, (size, dtype) in shapes.items():
        tensors[name] = torch.empty(size, dtype=dtype)
        scales = tensors[name].view(torch.bfloat16) if dtype is torch.int32 else tensors[name]
        largest = max(divisor, 1) * 0.16 / 2**bits
        for expert in torch.unique(ids):
            if dtype is torch.int16:
                tensors[name][expert].random_(-(1 << 15), (1 << 15) - 1, generator=source)
            else:
                scales[expert].uniform_(largest / 10, largest, generator=source)
    packed = packing.PackedExperts(
        **tensors, hidden=hidden_size, width=width, group=group, scale_divisor=divisor
    )
    hidden, weights = activations(tokens, hidden_size), torch.rand(tokens, 6, generator=source)

    expected = torch.zeros(tokens, hidden_size, dtype=torch.float64)
    for expert in torch.unique(ids):
        up = packing.decode(packed.up[expert], packed.up_scale[expert], hidden_size, group, divisor)
        down = packing.decode(packed.down[expert], packed.down_scale[expert], width, group, divisor)
        part = (hidden.double() @ up.double().T).relu().square() @ down.double().T
        expected += part * (weights * (ids == expert)).sum(1, keepdim=True).double()
    wide = Tile(8, 1024, 4, 2)  # the arithmetic of every tile, in steps the interpreter can afford
    out = op.routed_kernels(hidden, ids, weights, packed, tile=wide)
    assert relative_error(out, expected) < BOUND


SHIPPED = {tile for table in TILES.values() for _, tile in table}
SHIPPED |= {tile_for_pairs(pairs) for pairs in (1, 12, 13, 48)} | {tile_for_dense(80, 1, 64)}


@pytest.mark.parametrize("tile", sorted(SHIPPED, key=str))
@pytest.mark.parametrize(("bits", "divisor"), [(4, 7), (8, 127)])
def test_every_shipped_tile(tile: Tile, bits: int, divisor: int) -> None:
    layer = Layer.random(3, 128, 192, 64, bits=bits, scale_divisor=divisor)
    hidden = activations(11, 128)
    ids = torch.tensor([[0, 2], [2, 0], [-1, 2], *[[0, 2]] * 8], dtype=torch.int32)
    weights = torch.rand(11, 2)
    expected = layer.expected(hidden, ids, weights)
    out = op.routed_kernels(hidden, ids, weights, layer.experts, tile=tile)
    assert relative_error(out, expected) < BOUND


@pytest.mark.parametrize("tokens", [1, 2])
def test_few_tokens_go_unsorted(tokens: int) -> None:
    layer = Layer.random(24, 64, 64, 64)
    ids = torch.tensor([[3, 20], [20, -1]], dtype=torch.int32)[:tokens]
    shape = steps.Shape(64, 64, 24, top_k=2, group=64)
    launched = [step.kernel for step in steps.routed(shape, tokens, 80).steps]
    assert launched == ["grouped", "grouped", "combine"]
    hidden, weights = activations(tokens, 64), torch.rand(tokens, 2)
    out = op.routed_kernels(hidden, ids, weights, layer.experts)
    for got, wanted in zip(out, layer.expected(hidden, ids, weights), strict=True):
        assert relative_error(got, wanted) < BOUND


def test_ranks_add_up_to_the_whole() -> None:
    layer = Layer.random(6, 128, 64, 64)
    hidden = activations(9, 128)
    ids = torch.stack([torch.randperm(6)[:3] for _ in range(9)]).int()
    weights = torch.rand(9, 3)
    halves = []
    for first in (0, 3):
        part = slice(first, first + 3)
        up, up_scale, down, down_scale = (tensor[part] for tensor in layer.weights)
        experts = packing.pack(up, up_scale, down, down_scale)
        halves.append(op.routed_kernels(hidden, ids, weights, experts, first).double())
    assert relative_error(torch.stack(halves).sum(0), layer.expected(hidden, ids, weights)) < BOUND


def test_a_token_without_experts_here_gets_zeros() -> None:
    layer = Layer.random(2, 64, 64, 64)
    ids = torch.tensor([[-1, -1], [0, 1], [7, -5]], dtype=torch.int32)
    out = op.routed_kernels(activations(3, 64), ids, torch.full((3, 2), 0.5), layer.experts)
    assert not out[0].any()
    assert not out[2].any()
    assert out[1].any()


def test_weights_of_experts_elsewhere_are_not_read() -> None:
    layer = Layer.random(2, 64, 64, 64)
    ids = torch.tensor([[-1, 1]] * 9, dtype=torch.int32)
    weights = torch.tensor([[float("nan"), 1.0]] * 9)
    out = op.routed_kernels(activations(9, 64), ids, weights, layer.experts)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("tokens", [2, 20])
def test_a_nan_stays_one_and_stays_in_its_token(tokens: int) -> None:
    """Unsorted and sorted: relu2 must not turn it into 0."""
    layer = Layer.random(3, 128, 64, 64)
    ids = torch.stack([torch.randperm(3)[:2] for _ in range(tokens)]).int()
    hidden = activations(tokens, 128)
    hidden[1, 5] = float("nan")
    out = op.routed_kernels(hidden, ids, torch.rand(tokens, 2), layer.experts)
    sick = torch.arange(tokens) == 1
    assert out[sick].isnan().all()
    assert out[~sick].isfinite().all()


@pytest.mark.parametrize("divisor", [0, 7])
def test_a_scale_that_became_nan_shows(divisor: int) -> None:
    layer = Layer.random(2, 64, 64, 64, scale_divisor=divisor)
    scales = layer.experts.up_scale
    if divisor:
        scales = scales.view(torch.bfloat16)
    scales[1, 0, 7] = float("nan")
    ids = torch.tensor([[0], [1]], dtype=torch.int32)
    out = op.routed_kernels(activations(2, 64), ids, torch.ones(2, 1), layer.experts)
    assert out[0].isfinite().all()
    assert out[1].isnan().all()


@pytest.mark.parametrize("tokens", [1, 9])
def test_scales_of_neighbouring_rows_are_not_mixed_up(tokens: int) -> None:
    """Rows that share a word have scales that differ a millionfold, in the layer's every place."""
    up, _, down, _ = stored(2, 128, 96, 32, scale_divisor=7)
    rising = (2.0 ** (torch.arange(2 * 96 * 4) * 11 % 20)).view(2, 96, 4)
    falling = (2.0 ** (-(torch.arange(2 * 128 * 3) * 7 % 20))).view(2, 128, 3)
    weights = (up, rising / 2**20 / 7, down, falling / 7)
    layer = Layer(weights, packing.pack(*weights))
    assert layer.experts.scale_divisor == 7
    ids = torch.ones(tokens, 1, dtype=torch.int32)
    hidden, whole = activations(tokens, 128), torch.ones(tokens, 1)
    out = op.routed_kernels(hidden, ids, whole, layer.experts)
    expected = layer.expected(hidden, ids, whole)
    for column in range(128):  # a norm over all would see the largest alone
        assert relative_error(out[:, column], expected[:, column]) < 3 * BOUND


def test_the_same_input_gives_the_same_bits_in_any_company() -> None:
    """A token's result does not depend on which others share its blocks."""
    layer = Layer.random(3, 128, 64, 64)
    hidden = activations(20, 128)
    ids = torch.stack([torch.randperm(3)[:2] for _ in range(20)]).int()
    weights = torch.rand(20, 2)
    tile = Tile(8, 64, 2, 2)
    together = op.routed_kernels(hidden, ids, weights, layer.experts, tile=tile)
    backwards = op.routed_kernels(
        hidden.flip(0), ids.flip(0), weights.flip(0), layer.experts, tile=tile
    )
    assert torch.equal(together, backwards.flip(0))


def test_inputs_that_start_at_an_odd_address() -> None:
    layer = Layer.random(2, 64, 64, 64)
    flat = torch.cat([torch.zeros(1).half(), activations(3, 64).flatten()])
    hidden = flat[1:].view(3, 64)
    ids = torch.tensor([[9, 0], [9, 1], [9, 0]], dtype=torch.int32)[:, 1:]
    out = op.routed_kernels(hidden, ids, torch.ones(3, 1), layer.experts)
    expected = layer.expected(hidden, ids, torch.ones(3, 1))
    assert relative_error(out, expected) < BOUND
