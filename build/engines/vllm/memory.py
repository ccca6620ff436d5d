"""Memory of vLLM on one GPU: states and KV cache in blocks of one size (docs/planner.md says where
its rules were read)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ....model.architecture import Model

KERNEL_TOKENS: Final = 16
"""Attention kernels take KV cache in multiples of so many tokens."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """How vLLM cuts caches into blocks of one size.

    A block is a page of each layer of a group, and all groups have as many layers. A page of
    attention holds `tokens` tokens, just so many that a layer's Mamba state fits into a page, too.
    Every sequence takes a block of each group of Mamba layers, of which there are `state_groups`,
    and as many blocks as its tokens fill of each of the `kv_groups` of attention layers. `bytes` is
    the size of a block.
    """

    bytes: int
    tokens: int
    kv_groups: int
    state_groups: int

    def of_sequence(self, context: int) -> int:
        """Blocks of a sequence of `context` tokens."""
        return self.kv_groups * -(-context // self.tokens) + self.state_groups


def blocks(model: Model, state: int, kv_per_token: int) -> Blocks:
    """The blocks of `model` on one GPU, where so many bytes are the Mamba state of a sequence and
    the KV cache of a token (`Platform._align_hybrid_block_size` and
    `_get_kv_cache_groups_uniform_page_size`, 0.24 to 0.33)."""
    attention, mamba = (model.layer_count(letter) for letter in "*M")
    if not (state and mamba):
        return Blocks(max(1, KERNEL_TOKENS * kv_per_token), KERNEL_TOKENS, 1, 0)
    if not (kv_per_token and attention):
        return Blocks(state, KERNEL_TOKENS, 0, 1)
    layer, token = -(-state // mamba), kv_per_token // attention
    tokens = KERNEL_TOKENS * -(-layer // (KERNEL_TOKENS * token))
    fewest, most = sorted((attention, mamba))
    group = most if most < 1.5 * fewest else fewest
    return Blocks(group * tokens * token, tokens, -(-attention // group), -(-mamba // group))


@dataclass(frozen=True, slots=True)
class PagedCache:
    """The `Cache` of vLLM: of the bytes `free` of one GPU, `reserve` lie outside of
    `gpu_memory_utilization`, and all others are blocks. `state` is the Mamba state of a sequence in
    bytes."""

    free: int
    reserve: int
    blocks: Blocks

    @property
    def count(self) -> int:
        """All blocks; below 0 where weights and server take more than they may."""
        return (self.free - self.reserve) // self.blocks.bytes

    @property
    def _usable(self) -> int:
        """Blocks that sequences can have: one stands for those that have been freed."""
        return self.count - 1

    def fits(self, sequences: int, context: int) -> bool:
        """Whether `sequences` of `context` tokens can be served at once."""
        return self._usable >= 0 and sequences * self.blocks.of_sequence(context) <= self._usable

    def max_context(self, sequences: int) -> int:
        """Tokens that each of `sequences` sequences may have; 0 where they do not fit."""
        each = self._usable // sequences - self.blocks.state_groups
        if each < 0:
            return 0
        if not self.blocks.kv_groups:
            return 2**63 - 1
        return each // self.blocks.kv_groups * self.blocks.tokens

    def terms(self, sequences: int) -> dict[str, int]:
        """All of `free`, by what it holds when configured for `sequences`."""
        pool = max(0, self.count) * self.blocks.bytes
        states = min(pool, sequences * self.blocks.state_groups * self.blocks.bytes)
        return {"mamba_state": states, "kv_cache": pool - states, "reserve": self.free - pool}

    def usable(self, sequences: int) -> int:
        """Bytes that the states of `sequences` and the KV cache may take together."""
        return max(0, self._usable) * self.blocks.bytes
