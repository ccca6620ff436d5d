"""What a user may choose of a server's configuration, in the words of the options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from ...core.errors import UsageError
from ...model.recipe import Recipe
from ...model.spec import DEFAULT_SEQUENCES, Serving, Workload
from .base import Fallback

STEP_TOKENS: Final = 8192
"""Tokens of one forward pass; longer prompts are prefilled in chunks."""

PROMPT_TOKENS: Final = 32
"""Tokens of a prompt for which a step has room beside one of each sequence."""

STATE_DTYPES: Final[Mapping[str, str]] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""The word for each safetensors dtype of the Mamba state: that of the option and of the engines."""

_STATES: Final = {word: dtype for dtype, word in STATE_DTYPES.items()}
_KV: Final = {"bf16": "BF16", "fp8": "F8_E4M3"}


def state_dtype(workload: Workload) -> str:
    """The dtype of the Mamba state: as chosen, else FP32. Raises `UsageError`."""
    return _known("--mamba-state", workload.mamba_state, _STATES) or "F32"


def kv_dtype(workload: Workload, usual: str) -> str:
    """The dtype of the KV cache: as chosen, else `usual`. Raises `UsageError`."""
    return _known("--kv-cache", workload.kv_cache, _KV) or usual


def _known(option: str, value: str | None, dtypes: Mapping[str, str]) -> str | None:
    if value is None:
        return None
    if value not in dtypes:
        raise UsageError(f"{option} {value!r}: known are {', '.join(dtypes)}")
    return dtypes[value]


def step_tokens(workload: Workload) -> int:
    """As chosen; otherwise as usual, with room for a token of each sequence. Raises `UsageError`
    for a step without that room."""
    concurrency = workload.concurrency or 1
    room = concurrency + PROMPT_TOKENS
    step = workload.max_num_tokens or max(STEP_TOKENS, room)
    if step < room:
        raise UsageError(
            f"--max-num-tokens {step}: a step takes a token of each sequence that is served at the "
            f"same time (--concurrency {concurrency}) and {PROMPT_TOKENS} tokens of a prompt; "
            f"give at least {room}"
        )
    return step


def graph_batch(workload: Workload) -> int:
    """As many sequences as were asked for; otherwise the usual number, as far as a step takes it
    with some tokens of a prompt."""
    room = step_tokens(workload) - PROMPT_TOKENS
    return workload.concurrency or min(DEFAULT_SEQUENCES, room)


def usual(recipe: Recipe, workload: Workload, cache_share: float) -> Serving:
    """The usual configuration, whose caches take `cache_share`, with what `workload` chooses.
    Raises `UsageError` for a value that is unknown or contradicts another one."""
    return Serving(
        step_tokens=step_tokens(workload),
        graph_batch=graph_batch(workload),
        cache_share=cache_share,
        kv_dtype=kv_dtype(workload, recipe.kv_dtype),
        state_dtype=state_dtype(workload),
    )


def possible(fallbacks: Iterable[Fallback], workload: Workload) -> tuple[Fallback, ...]:
    """Of `fallbacks`, nothing that `workload` chooses, no step that its sequences would fill, and
    no more graphs than usual."""
    least = {"step_tokens": (workload.concurrency or DEFAULT_SEQUENCES) + PROMPT_TOKENS}
    most = {"graph_batch": graph_batch(workload) - 1}

    def fits(attribute: str, value: int | float | str) -> bool:
        low, high = least.get(attribute), most.get(attribute)
        return (low is None or int(value) >= low) and (high is None or int(value) <= high)

    return tuple(
        replace(fallback, values=tuple(v for v in fallback.values if fits(fallback.attribute, v)))
        for fallback in fallbacks
        if fallback.attribute not in workload.settled
    )
