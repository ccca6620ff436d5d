"""How a TensorRT-LLM server is configured: its usual settings, what a user may choose, and what can
be given up for memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ....core.errors import UsageError
from ....model.recipe import Recipe
from ....model.spec import DEFAULT_SEQUENCES, Serving, Workload
from ..base import Fallback

CACHE_SHARE: Final = 0.8
"""Share of the memory left after loading that caches may take (upstream's Nano configurations)."""

STEP_TOKENS: Final = 8192
"""Tokens of one forward pass; longer prompts are prefilled in chunks."""

TOKENS_PER_BLOCK: Final = 32
"""KV cache is handed out in blocks of this many tokens (TensorRT-LLM's default)."""

STATE_DTYPES: Final[Mapping[str, str]] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""`mamba_ssm_cache_dtype` for each safetensors dtype of the state."""

KV_DTYPES: Final[Mapping[str, str]] = {"BF16": "auto", "F8_E4M3": "fp8"}
"""`kv_cache_config.dtype` for each safetensors dtype of the KV cache. TensorRT-LLM's
`validate_and_set_kv_cache_quant` knows `auto`, which is what the checkpoint asks for, `fp8` and
`nvfp4`."""

_KV_OPTIONS: Final = {"bf16": "BF16", "fp8": "F8_E4M3"}

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
    """What to give up where a model does not fit, in this order: nothing that `workload` chooses,
    no step that its sequences would fill, and no more graphs than usual."""
    least = {"step_tokens": (workload.concurrency or DEFAULT_SEQUENCES) + TOKENS_PER_BLOCK}
    most = {"graph_batch": _graph_batch(workload) - 1}

    def possible(attribute: str, value: int | float | str) -> bool:
        low, high = least.get(attribute), most.get(attribute)
        return (low is None or int(value) >= low) and (high is None or int(value) <= high)

    return tuple(
        replace(
            fallback, values=tuple(v for v in fallback.values if possible(fallback.attribute, v))
        )
        for fallback in _FALLBACKS
        if fallback.attribute not in workload.settled
    )


def serving(recipe: Recipe, workload: Workload) -> Serving:
    """The usual configuration, with what `workload` chooses. Raises `UsageError` for a value that
    is unknown or contradicts another one."""
    states = {name: dtype for dtype, name in STATE_DTYPES.items()}
    state = _known("--mamba-state", workload.mamba_state, states)
    kv = _known("--kv-cache", workload.kv_cache, _KV_OPTIONS)
    step, concurrency = _step_tokens(workload), workload.concurrency or 1
    if step < concurrency + TOKENS_PER_BLOCK:
        raise UsageError(
            f"--max-num-tokens {step}: a step takes a token of each sequence that is served at the "
            f"same time (--concurrency {concurrency}) and {TOKENS_PER_BLOCK} tokens of a prompt; "
            f"give at least {concurrency + TOKENS_PER_BLOCK}"
        )
    return Serving(
        step_tokens=step,
        graph_batch=_graph_batch(workload),
        cache_share=CACHE_SHARE,
        kv_dtype=kv or recipe.kv_dtype,
        state_dtype=state or "F32",
    )


def _step_tokens(workload: Workload) -> int:
    """As chosen; otherwise as usual, with room for a token of each sequence."""
    room = (workload.concurrency or 1) + TOKENS_PER_BLOCK
    return workload.max_num_tokens or max(STEP_TOKENS, room)


def _graph_batch(workload: Workload) -> int:
    """As many sequences as were asked for; otherwise the usual number, as far as a step takes it
    with a block of a prompt."""
    room = _step_tokens(workload) - TOKENS_PER_BLOCK
    return workload.concurrency or min(DEFAULT_SEQUENCES, room)


def _known(option: str, value: str | None, dtypes: Mapping[str, str]) -> str | None:
    if value is None:
        return None
    if value not in dtypes:
        raise UsageError(f"{option} {value!r}: known are {', '.join(dtypes)}")
    return dtypes[value]


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
