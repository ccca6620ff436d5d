"""What a plan gives up of a server's usual configuration before it says that a model does not fit,
and what each of these costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ...model.spec import Concession, Serving
from ..engines.base import Fallback
from .memory import Memory

EAGER_LAYER_S: Final = (30.7e-3 - 6.0e-3) / 52
"""What a layer's launches add to a decoding step without a CUDA graph: 30.7 instead of 6.0 ms a
step of 52 layers (vLLM, Nemotron Elastic 30B in NVFP4 on a laptop's RTX 5090; airelien.dev, 2026).
"""


def reduced(
    usual: Serving, fallbacks: Iterable[Fallback], fits: Callable[[Serving], bool]
) -> Serving:
    """The configuration nearest to `usual` that fits; the smallest where none does.

    Fallbacks are added in their order until the model fits. Then each is taken back as far as it
    turns out not to be needed, the last one first.
    """
    serving, tried = usual, []
    if fits(serving):
        return serving
    for fallback in fallbacks:
        tried.append(fallback)
        for value in fallback.values:
            serving = fallback.applied(serving, value)
            if fits(serving):
                return _restored(serving, usual, reversed(tried), fits)
    return serving


def _restored(
    serving: Serving,
    usual: Serving,
    fallbacks: Iterable[Fallback],
    fits: Callable[[Serving], bool],
) -> Serving:
    for fallback in fallbacks:
        milder = (fallback.of(usual), *fallback.values)
        attempts = [fallback.applied(serving, value) for value in milder]
        serving = next(attempt for attempt in attempts if fits(attempt))
    return serving


@dataclass(frozen=True, slots=True)
class Trade:
    """One setting given up: the configuration and the memory with and without it, everything else
    as in the plan. `prompt_s` is the time to first token of a prompt of so many tokens, `layers`
    how many the model has, `sequences` how many the server is configured for."""

    usual: Serving
    chosen: Serving
    usual_memory: Memory
    memory: Memory
    prompt_s: Callable[[Serving, int], float]
    layers: int
    sequences: int


def _step(trade: Trade) -> str:
    length = trade.usual.step_tokens
    usual, now = (trade.prompt_s(serving, length) for serving in (trade.usual, trade.chosen))
    return (
        f"a prompt of {length:,} tokens takes {now * 1e3:,.0f} instead of {usual * 1e3:,.0f} ms to "
        "its first token (estimate)"
    )


def _graphs(trade: Trade) -> str:
    largest = trade.chosen.graph_batch
    if trade.sequences <= largest:
        return f"nothing: the server has no batch of more than {largest} sequences"
    more = trade.layers * EAGER_LAYER_S * 1e3
    return (
        f"a step with more than {largest} sequences takes about {more:.0f} ms longer, since each "
        "kernel is launched on its own (estimate)"
    )


def _reserve(trade: Trade) -> str:
    usual, now = (
        memory.cache.terms(trade.sequences).get("reserve", 0)
        for memory in (trade.usual_memory, trade.memory)
    )
    return (
        f"{now / 1e9:.2f} instead of {usual / 1e9:.2f} GB stay free for what no dummy run "
        "measures; a server that needs more ends"
    )


def _kv(trade: Trade) -> str:
    return (
        "keys and values are rounded to FP8 without calibrated scales, "
        f"{trade.memory.kv_per_token:,} instead of {trade.usual_memory.kv_per_token:,} bytes a "
        "token; what that does to answers was not measured"
    )


def _state(trade: Trade) -> str:
    return (
        f"the Mamba state is rounded to {trade.chosen.state_dtype} after every token, "
        f"{trade.memory.state / 1e6:.0f} instead of {trade.usual_memory.state / 1e6:.0f} MB a "
        "sequence; NVIDIA recommends FP32 for accuracy"
    )


_COSTS: Final[Mapping[str, Callable[[Trade], str]]] = {
    "step_tokens": _step,
    "graph_batch": _graphs,
    "cache_share": _reserve,
    "kv_dtype": _kv,
    "state_dtype": _state,
}


def concessions(
    usual: Serving,
    chosen: Serving,
    fallbacks: Iterable[Fallback],
    trade: Callable[[Serving], Trade],
) -> Iterator[Concession]:
    """What `chosen` gives up of `usual`. `trade` compares the plan with another configuration."""
    for fallback in fallbacks:
        if fallback.of(usual) != fallback.of(chosen):
            without = fallback.applied(chosen, fallback.of(usual))
            cost = _COSTS[fallback.attribute](trade(without))
            yield Concession(
                fallback.argument, fallback.spelled(usual), fallback.spelled(chosen), cost
            )


def fewer_sequences(usual: Serving, sequences: int, argument: str) -> Concession:
    """What it costs that fewer sequences than usual are served at the same time. `argument` is the
    engine's name for their number."""
    return Concession(
        argument,
        str(usual.graph_batch),
        str(sequences),
        "further requests wait until another one ends",
    )


def named(chosen: Serving, usual: Serving, fallbacks: Iterable[Fallback]) -> str:
    """The settings in which `chosen` differs from `usual`, and their values."""
    return ", ".join(
        f"{fallback.argument} {fallback.spelled(chosen)}"
        for fallback in fallbacks
        if fallback.of(chosen) != fallback.of(usual)
    )
