"""Sorting on the device: every pair in exactly one slot, blocks of one expert, in stable order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, full, int32, tensor

from nemotron_deploy.build.kernels import kernel, steps
from nemotron_deploy.build.kernels.configs import Tile

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
    slots, block_experts = sort(ids, experts, block_m, first)
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
