"""How a TensorRT-LLM server is configured: its usual settings, what a user may choose, and what can
be given up for memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ....model.recipe import Recipe
from ....model.spec import Serving, Workload
from ..base import Fallback
from ..serving_options import STATE_DTYPES, possible, usual

CACHE_SHARE: Final = 0.8
"""Share of the memory left after loading that caches may take (upstream's Nano configurations)."""

TOKENS_PER_BLOCK: Final = 32
"""KV cache is handed out in blocks of this many tokens (TensorRT-LLM's default)."""

KV_DTYPES: Final[Mapping[str, str]] = {"BF16": "auto", "F8_E4M3": "fp8"}
"""`kv_cache_config.dtype` for each safetensors dtype of the KV cache. TensorRT-LLM's
`validate_and_set_kv_cache_quant` knows `auto`, which is what the checkpoint asks for, `fp8` and
`nvfp4`."""

_FALLBACKS: Final = (
    Fallback("step_tokens", "max_num_tokens", (4096, 2048, 1024, 512)),
    Fallback("graph_batch", "cuda_graph_config.max_batch_size", (8,)),
    Fallback("cache_share", "kv_cache_config.free_gpu_memory_fraction", (0.9, 0.95)),
    Fallback("kv_dtype", "kv_cache_config.dtype", ("F8_E4M3",), KV_DTYPES),
    Fallback("state_dtype", "kv_cache_config.mamba_ssm_cache_dtype", ("BF16",), STATE_DTYPES),
)
"""First what costs time, then the reserve, then what may change answers. An FP8 KV cache works from
SM80 on, by TensorRT-LLM's own table of quantization and GPUs."""


def fallbacks(workload: Workload) -> tuple[Fallback, ...]:
    """What to give up where a model does not fit, in this order."""
    return possible(_FALLBACKS, workload)


def serving(recipe: Recipe, workload: Workload) -> Serving:
    """The usual configuration, with what `workload` chooses. Raises `UsageError` for a value that
    is unknown or contradicts another one."""
    return usual(recipe, workload, CACHE_SHARE)


def problem(recipe: Recipe, workload: Workload) -> str | None:
    """Why TensorRT-LLM cannot serve the format as `workload` chooses, or None."""
    if workload.kv_cache == "bf16" and recipe.kv_dtype != "BF16":
        have = "have scales for" if recipe.kv_scales else "of this recipe ask for"
        return (
            f"{recipe.key.upper()} checkpoints {have} an FP8 KV cache, and TensorRT-LLM has no "
            "setting that overrides them with BF16."
        )
    return None


def graph_batches(largest: int) -> tuple[int, ...]:
    """The batch sizes for which TensorRT-LLM 1.2 captures graphs, with padding, up to `largest`
    (`CudaGraphConfig._generate_cuda_graph_batch_sizes`)."""
    sizes = {1, 2, 4, *range(8, 129, 8), *(2**power for power in range(8, largest.bit_length()))}
    return tuple(sorted({size for size in sizes if size < largest} | {largest}))
