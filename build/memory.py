"""What fits on the GPUs: weights, runtime terms, and the room left for KV cache and Mamba state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..architecture import Model
from ..recipe import Recipe
from ..spec import Gpu
from .llm_args import FREE_GPU_MEMORY_FRACTION, MAX_NUM_TOKENS

GIB: Final = 2**30

RUNTIME_BYTES: Final = int(1.5 * GIB)
"""CUDA context, libraries, allocator slack. Assumed."""

WORKSPACE_BYTES: Final = int(1.5 * GIB)
"""Kernel workspaces (attention, expert sorting, matrix products). Assumed; with the other terms it
gives the 5 GiB beside weights and cache that one published vLLM log of Nano on an H100 shows."""

CUDA_GRAPH_BYTES: Final = int(1.39 * GIB)
"""Captured graphs; the same log."""

STATE_DTYPE: Final = "F32"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one GPU. `terms` sum to the GPU's memory; `free` is what caches may take of it."""

    terms: Mapping[str, int]
    free: int
    kv_per_token: int
    state_per_sequence: int

    def max_concurrency(self, context: int) -> int:
        """Sequences of `context` tokens that fit at once."""
        each = self.state_per_sequence + context * self.kv_per_token
        return max(0, self.free // each)

    def max_context(self, concurrency: int) -> int:
        """Tokens each of `concurrency` sequences may have."""
        left = self.free // concurrency - self.state_per_sequence
        if left < 0:
            return 0
        return left // self.kv_per_token if self.kv_per_token else 2**63 - 1


def memory(model: Model, recipe: Recipe, gpu: Gpu, gpus: int) -> Memory:
    """Memory of each of `gpus` GPUs that share the model evenly.

    Weights and Mamba state are divided by `gpus`; KV heads only as far as there are any.
    """
    terms = {
        "weights": -(-recipe.weights_bytes(model) // gpus),
        "runtime": RUNTIME_BYTES,
        "workspace": WORKSPACE_BYTES,
        "activations": activation_bytes(model),
        "cuda_graphs": CUDA_GRAPH_BYTES,
    }
    left = gpu.memory_bytes - sum(terms.values())
    free = max(0, int(left * FREE_GPU_MEMORY_FRACTION))
    terms |= {"caches": free, "reserve": left - free}
    kv_split = min(gpus, model.attention.num_kv_heads)
    return Memory(
        terms,
        free,
        kv_per_token=-(-model.kv_bytes_per_token(recipe.kv_dtype) // kv_split),
        state_per_sequence=-(-model.state_bytes_per_sequence(STATE_DTYPE) // gpus),
    )


def activation_bytes(model: Model) -> int:
    """BF16 activations of one forward pass over `MAX_NUM_TOKENS` tokens: the widest layer's inputs,
    projections and outputs, all live at once. An upper bound by layer type."""
    hidden = model.hidden_size
    widths = [2 * hidden + model.mamba.in_proj_rows, 2 * hidden + model.mlp_width]
    if model.moe is not None:
        routed = model.moe.top_k * (model.moe.width + model.moe.latent)
        widths.append(3 * hidden + routed + model.moe.shared_width)
    return 2 * MAX_NUM_TOKENS * max(widths)
