"""Routing and sorting on the device: the right experts with their weights; every pair in exactly
one slot, blocks of one expert, in stable order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, full, int32, tensor

from nemotron_deploy.build import kernels
from nemotron_deploy.build.kernels import kernel, op, steps
from nemotron_deploy.build.kernels.configs import Tile
from nemotron_deploy.tests.kernels.layers import BOUND, Layer, activations, relative_error

UNSET = 1 << 30


def sort(ids: list[int], experts: int, block_m: int, first: int) -> tuple[Tensor, Tensor]:
    """Run the ordering steps; (slots [blocks, block_m], the blocks' experts)."""
    shape = steps.Shape(64, 64, experts, top_k=1, group=64)
    plan = steps.routed(shape, len(ids), 80, Tile(block_m, 64, 2, 2))
    named = {"expert_ids": tensor(ids, dtype=int32)}
    named |= {
        name: full(buffer.shape, UNSET, dtype=int32)
        for name, buffer in plan.buffers.items()
        if buffer.dtype == "i32"
    }
    for step in plan.steps:
        if step.kernel in ("count", "place"):
            values = [
                operand if isinstance(operand, int) else named.get(operand, first)
                for _, operand in step.operands
            ]
            getattr(kernel, step.kernel)[(step.programs,)](*values, **dict(step.constants))
    return named["slots"].view(-1, block_m), named["block_experts"]


@settings(max_examples=40)
@given(
    st.integers(1, 40).flatmap(
        lambda experts: st.tuples(
            st.just(experts),
            st.lists(st.integers(-1, experts + 1), min_size=1, max_size=300),
            st.sampled_from((2, 8, 16)),
            st.sampled_from((0, 1)),
        )
    )
)
def test_pairs_are_sorted_into_blocks(problem: tuple[int, list[int], int, int]) -> None:
    check(*problem)


@pytest.mark.parametrize("experts", [5, 8, 37])
def test_several_chunks(experts: int) -> None:
    ids = [(7 * pair * pair + pair) % (experts + 1) for pair in range(300)]
    check(experts, ids, 8, 0)


def check(experts: int, ids: list[int], block_m: int, first: int) -> None:
    """The kernels' blocks are those of a stable sort."""
    require_sorted(*sort(ids, experts, block_m, first), ids, experts, block_m, first)


def require_sorted(
    slots: Tensor, block_experts: Tensor, ids: list[int], experts: int, block_m: int, first: int
) -> None:
    wanted = []
    for expert in range(experts):
        pairs = [pair for pair, name in enumerate(ids) if name - first == expert]
        pairs += [len(ids)] * (-len(pairs) % block_m)
        wanted += [(expert, pairs[at : at + block_m]) for at in range(0, len(pairs), block_m)]
    used = [
        (int(expert), row.tolist())
        for expert, row in zip(block_experts, slots, strict=True)
        if expert < experts
    ]
    assert used == wanted
    assert (block_experts < UNSET).all(), "a block without an expert's number"
    assert (slots[len(wanted) :] == UNSET).all(), "slots of unused blocks were written"


def test_many_chunks_and_as_many_experts_as_super_has() -> None:
    ids = [(7 * pair * pair) % 512 for pair in range(1500)]
    slots, block_experts = sort(ids, 512, 8, 0)
    seen = slots[block_experts < 512]
    assert sorted(seen[seen < len(ids)].tolist()) == list(range(len(ids)))
    for expert, row in zip(block_experts, slots, strict=True):
        if expert < 512:
            assert all(ids[pair] == expert for pair in row.tolist() if pair < len(ids))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.sampled_from((1, 2, 8, 16)))
def test_the_worst_case_holds_any_choice(counts: list[int], block_m: int) -> None:
    pairs = sum(counts)
    needed = sum(-(-count // block_m) for count in counts)
    assert needed <= steps.block_limit(pairs, len(counts), block_m)


def test_the_worst_case_is_reached() -> None:
    assert steps.block_limit(6, 128, 8) == 6
    assert steps.block_limit(128 + 8 * 5, 128, 8) == 128 + 5


def router(experts: int, top_k: int, seed: int, scaling: float = 2.5) -> kernels.Router:
    source = torch.Generator().manual_seed(seed)
    return kernels.Router(torch.rand(experts, generator=source) / 8, torch.tensor([scaling]), top_k)


def logits_of(tokens: int, experts: int, seed: int) -> Tensor:
    """No two of a token are equal or nearly so."""
    source = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(experts, generator=source) for _ in range(tokens)]
    empty = torch.zeros(0, experts)
    return (torch.stack(rows) if rows else empty).float() * (6 / experts) - 3


@st.composite
def choices(draw: st.DrawFn) -> tuple[int, int, int, int]:
    experts = draw(st.integers(1, 40))
    return draw(st.integers(1, 40)), experts, draw(st.integers(1, min(experts, 9))), draw(seeds)


seeds = st.integers(0, 1 << 20)


@settings(max_examples=30)
@given(choices())
def test_the_router_chooses_as_torch_does(problem: tuple[int, int, int, int]) -> None:
    tokens, experts, top_k, seed = problem
    chooser, logits = router(experts, top_k, seed), logits_of(tokens, experts, seed)
    ids, weights = kernels.route(logits, chooser)
    wanted, wanted_weights = kernels.reference_route(logits, chooser.bias, chooser.scaling, top_k)
    assert torch.equal(ids, wanted)
    torch.testing.assert_close(weights, wanted_weights, rtol=1e-5, atol=1e-6)


def test_of_equal_scores_the_first_is_taken() -> None:
    chooser = kernels.Router(torch.zeros(5), torch.ones(1), 3)
    ids, weights = kernels.route(torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0]]), chooser)
    assert ids.tolist() == [[1, 2, 0]]
    assert float(weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize("tokens", [1, 16, 17])
def test_a_nan_among_the_logits_shows_in_its_token_alone(tokens: int) -> None:
    layer = Layer.random(6, 64, 64, 64)
    logits = logits_of(tokens, 6, 3)
    logits[0, 4] = float("nan")
    hidden = activations(tokens, 64)
    out = op.router_kernels(hidden, logits, router(6, 2, 1), layer.experts)
    assert out[0].isnan().all()
    assert out[1:].isfinite().all()


def test_experts_that_can_never_be_chosen_are_chosen_once_each() -> None:
    """A bias of minus infinity takes an expert out. Where too few are left, no expert is named
    twice, and every number is that of an expert."""
    chooser = kernels.Router(torch.full((4,), float("-inf")), torch.ones(1), 3)
    ids, _ = kernels.route(torch.zeros(2, 4), chooser)
    assert [sorted(row) for row in ids.tolist()] == [[0, 1, 2]] * 2


@pytest.mark.long
@settings(max_examples=30)
@given(choices(), st.sampled_from((None, Tile(8, 32, 2, 2), Tile(16, 32, 2, 2))))
def test_experts_of_the_routers_choice_agree_with_float64(
    problem: tuple[int, int, int, int], tile: Tile | None
) -> None:
    """All of them, or those of the second of two ranks; sorted by the router itself, or after it,
    or not at all."""
    tokens, experts, top_k, seed = problem
    first = experts // 2 if seed % 2 else 0
    layer = Layer.random(experts - first, 64, 64, 64, seed)
    chooser, logits = router(experts, top_k, seed), logits_of(tokens, experts, seed)
    hidden = activations(tokens, 64, seed)
    out = op.router_kernels(hidden, logits, chooser, layer.experts, first, tile)
    ids, weights = kernels.reference_route(logits, chooser.bias, chooser.scaling, top_k)
    assert relative_error(out, layer.expected(hidden, ids, weights, first)) < BOUND


@pytest.mark.parametrize("tokens", [9, 12, 16])
@pytest.mark.parametrize("first", [0, 7])
@pytest.mark.parametrize("block_m", [2, 8, 16])
def test_the_router_sorts_as_place_does(tokens: int, first: int, block_m: int) -> None:
    experts, top_k = 20, 5
    shape = steps.Shape(64, 64, experts - first, top_k, 64, routes=experts)
    plan = steps.routed(shape, tokens, 80, Tile(block_m, 64, 2, 2))
    assert [step.kernel for step in plan.steps[:2]] == ["route", "grouped"]
    chooser, logits = router(experts, top_k, tokens), logits_of(tokens, experts, tokens)
    named = {"logits": logits, "bias": chooser.bias, "scaling": chooser.scaling}
    for name, buffer in plan.buffers.items():
        dtype = int32 if buffer.dtype == "i32" else torch.float32
        named[name] = full(buffer.shape, UNSET, dtype=dtype)
    values = [
        operand if isinstance(operand, int) else named.get(operand, first)
        for _, operand in plan.steps[0].operands
    ]
    kernel.route[(1,)](*values, **dict(plan.steps[0].constants))
    ids = named["expert_ids"].flatten().tolist()
    sorted_blocks = named["slots"].view(-1, block_m), named["block_experts"]
    require_sorted(*sorted_blocks, ids, experts - first, block_m, first)


def test_what_does_not_fit_the_router_is_refused() -> None:
    layer = Layer.random(4, 64, 64, 64)
    hidden, chooser = activations(3, 64), router(4, 2, 0)
    with pytest.raises(ValueError, match=r"logits is torch\.float16; float32 is expected"):
        kernels.routed_moe(hidden, torch.zeros(3, 4).half(), chooser, layer.experts)
    with pytest.raises(ValueError, match="do not fit together"):
        kernels.routed_moe(hidden, torch.zeros(3, 5), chooser, layer.experts)
    with pytest.raises(ValueError, match="logits are of 2 tokens and hidden of 3"):
        kernels.routed_moe(hidden, torch.zeros(2, 4), chooser, layer.experts)
    with pytest.raises(ValueError, match="5 of 4 experts cannot be chosen"):
        kernels.route(torch.zeros(2, 4), kernels.Router(chooser.bias, chooser.scaling, 5))
