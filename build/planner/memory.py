"""What fits on each GPU: weights and server, then the caches as the engine divides what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...model.recipe import Recipe
from ...model.spec import Gpu, Serving
from ..engines.base import Cache, PlannedEngine
from ..engines.rules import Rule
from .holdings import Holdings


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one GPU: `fixed` is what weights and server take whatever they serve, `left` the
    rest, which `cache` divides. `state` is the Mamba state of one sequence and `kv_per_token` the
    KV cache of one token, both on one GPU."""

    fixed: Mapping[str, int]
    left: int
    state: int
    kv_per_token: int
    cache: Cache

    def max_concurrency(self, context: int) -> int:
        """Sequences of `context` tokens that fit at once."""
        least, most = 0, max(1, self.left // max(1, self.state + context * self.kv_per_token)) + 1
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if self.cache.fits(middle, context) else (least, middle)
        return least

    def terms(self, sequences: int) -> dict[str, int]:
        """All bytes of the GPU when configured for `sequences`, by what they hold."""
        return {**self.fixed, **self.cache.terms(sequences)}


def memory(
    held: Holdings,
    recipe: Recipe,
    gpu: Gpu,
    gpus: int,
    engine: PlannedEngine,
    serving: Serving,
    rule: Rule,
) -> Memory:
    """Memory of the fullest of `gpus` GPUs, with the server configured as `serving` for what `rule`
    decides."""
    fixed = {
        "driver": gpu.memory_bytes - gpu.cuda_bytes,
        "weights": held.weight_bytes(gpus),
        **engine.server_bytes(held.model, recipe, gpus, serving, rule),
    }
    left = gpu.memory_bytes - sum(fixed.values())
    state = held.state_bytes_per_sequence(serving.state_dtype, gpus)
    kv_per_token = held.kv_bytes_per_token(serving.kv_dtype, gpus)
    cache = engine.cache(held.model, gpu, left, state, kv_per_token, serving)
    return Memory(fixed, left, state, kv_per_token, cache)
