"""How a vLLM server is configured: its usual settings, what a user may choose, and what can be
given up for memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ....model.recipe import Recipe
from ....model.spec import Serving, Workload
from ..base import Fallback
from ..serving_options import STATE_DTYPES, possible, usual

UTILIZATION: Final = 0.92
"""`gpu_memory_utilization`: the share of a GPU's whole memory that a server may take. vLLM's own
default since 0.21, when it began to count CUDA graphs among it."""

KV_DTYPES: Final[Mapping[str, str]] = {"BF16": "bfloat16", "F8_E4M3": "fp8"}
"""`kv_cache_dtype` for each safetensors dtype of the KV cache. Unlike `auto`, these hold whatever
scales a checkpoint has."""

LARGEST_GRAPH: Final = 512
"""The largest batch of which vLLM captures a CUDA graph by default."""

_FALLBACKS: Final = (
    Fallback("step_tokens", "max_num_batched_tokens", (4096, 2048, 1024, 512)),
    Fallback("graph_batch", "max_cudagraph_capture_size", (8,)),
    Fallback("cache_share", "gpu_memory_utilization", (0.95, 0.97)),
    Fallback("kv_dtype", "kv_cache_dtype", ("F8_E4M3",), KV_DTYPES),
    Fallback("state_dtype", "mamba_ssm_cache_dtype", ("BF16",), STATE_DTYPES),
)
"""First what costs time, then the reserve, then what may change answers. An FP8 KV cache works from
SM80 on with FlashInfer, which vLLM chooses where FlashAttention has none."""


def fallbacks(workload: Workload) -> tuple[Fallback, ...]:
    """What to give up where a model does not fit, in this order."""
    return possible(_FALLBACKS, workload)


def serving(recipe: Recipe, workload: Workload) -> Serving:
    """The usual configuration, with what `workload` chooses. Raises `UsageError` for a value that
    is unknown or contradicts another one."""
    return usual(recipe, workload, UTILIZATION)


def capture_sizes(sequences: int, step_tokens: int) -> tuple[int, ...]:
    """The batch sizes for which vLLM captures graphs by default, in a server of so many sequences
    (`VllmConfig._set_cudagraph_sizes`, 0.24 to 0.33)."""
    largest = min(2 * sequences, LARGEST_GRAPH, step_tokens)
    sizes = {1, 2, 4, *range(8, min(largest + 1, 256), 8), *range(256, largest + 1, 16)}
    if step_tokens <= largest:
        sizes.add(step_tokens)
    return tuple(sorted(size for size in sizes if size <= largest))


def graphs(serving: Serving) -> int:
    """How many graphs a server captures: one of each size for steps with prompts, and another one
    for those with decoding alone, which have a token of each sequence."""
    sizes = capture_sizes(serving.graph_batch, serving.step_tokens)
    return len(sizes) + sum(size <= serving.graph_batch for size in sizes)
