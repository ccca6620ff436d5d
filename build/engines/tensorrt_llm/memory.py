"""Memory of TensorRT-LLM on one GPU: what a server takes, and how the rest is divided into Mamba
states and KV cache (docs/planner.md says where its rules were read)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ....model.architecture import Model
from ....model.recipe import Recipe
from ....model.spec import Serving
from ..server_memory import server_bytes as worker_bytes
from .serving import TOKENS_PER_BLOCK, graph_batches

PARENT_BYTES: Final = 592 * 2**20
"""The CUDA context of the process that starts the workers, on the first GPU: TensorRT-LLM issue
10580 has it beside a worker of Nano. In issue 1604, a process that computes on another GPU holds
520 MiB. A worker in the server's own process has no such parent."""


@dataclass(frozen=True, slots=True)
class BlockCache:
    """A pool of Mamba states, and KV cache in blocks: the `Cache` of TensorRT-LLM.

    `free`, `state` (of one sequence) and `kv_per_token` are bytes of one GPU. `share` is
    `free_gpu_memory_fraction`, `state_in_fraction` whether the pool is part of what it gives to
    caches, `spare_state_slots` how many slots the pool has beside those of `max_batch_size`.
    """

    free: int
    state: int
    kv_per_token: int
    share: float
    state_in_fraction: bool
    spare_state_slots: int

    def _pool(self, sequences: int) -> int:
        """Bytes of the pool of Mamba states."""
        return (sequences + self.spare_state_slots) * self.state

    def kv_budget(self, sequences: int) -> int:
        """Bytes for KV cache beside the states of `sequences`; below 0 where they do not fit.

        TensorRT-LLM takes a fraction of what is free. The pool of 1.2 lies outside that fraction,
        since it is allocated first; the pool of 1.3's late candidates lies inside.
        """
        pool = self._pool(sequences)
        if self.state_in_fraction:
            return int(self.share * self.free) - pool
        if pool > self.free:
            return -1
        return int(self.share * (self.free - pool))

    def _blocks(self, sequences: int) -> int:
        """Blocks of KV cache for sequences; the dummy sequence that pads CUDA graphs keeps one."""
        return self.kv_budget(sequences) // (self.kv_per_token * TOKENS_PER_BLOCK) - 1

    def fits(self, sequences: int, context: int) -> bool:
        """Whether `sequences` of `context` tokens can be served at once."""
        if self.kv_budget(sequences) < 0:
            return False
        if not self.kv_per_token:
            return True
        # One token more than the context: the next step is scheduled before this one has ended.
        return sequences * -(-(context + 1) // TOKENS_PER_BLOCK) <= self._blocks(sequences)

    def max_context(self, sequences: int) -> int:
        """Tokens that each of `sequences` sequences may have; 0 where they do not fit."""
        if self.kv_budget(sequences) < 0:
            return 0
        if not self.kv_per_token:
            return 2**63 - 1
        return max(0, self._blocks(sequences) // sequences * TOKENS_PER_BLOCK - 1)

    def terms(self, sequences: int) -> dict[str, int]:
        """All of `free`, by what it holds when configured for `sequences`."""
        states = max(0, min(self.free, self._pool(sequences)))
        kv = max(0, self.kv_budget(sequences))
        return {"mamba_state": states, "kv_cache": kv, "reserve": self.free - states - kv}

    def usable(self, sequences: int) -> int:
        """Bytes that the states of `sequences` and the KV cache may take together."""
        return sequences * self.state + max(0, self.kv_budget(sequences))


def server_bytes(
    model: Model, recipe: Recipe, gpus: int, serving: Serving, single_process: bool
) -> dict[str, int]:
    """Bytes that a server takes on the first of `gpus` GPUs, which is the fullest, beside weights
    and caches. `single_process` is whether the worker is in the process of the server."""
    graphs = len(graph_batches(serving.graph_batch))
    parent = {} if single_process else {"parent_process": PARENT_BYTES}
    return {**parent, **worker_bytes(model, recipe, gpus, serving.step_tokens, graphs)}
