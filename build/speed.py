"""A roofline of decoding and prefill: the bytes and operations a step really needs, over the GPU's
rates times a stated efficiency. Estimates, never measurements."""

from __future__ import annotations

from typing import Final

from ..recipe import Recipe
from ..spec import Estimate, Gpu, Model, Role, Workload
from .memory import STATE_DTYPE

BANDWIDTH_EFFICIENCY: Final = 0.7
COMPUTE_EFFICIENCY: Final = 0.4
OVERHEAD_S_PER_LAYER: Final = 10e-6
"""Launches and synchronisation that CUDA graphs leave."""

ASSUMPTIONS: Final = (
    "an estimate from bytes and operations, not a measurement",
    f"{BANDWIDTH_EFFICIENCY:.0%} of the vendor's memory bandwidth, {COMPUTE_EFFICIENCY:.0%} of its "
    "dense matrix rate",
    "tokens choose experts uniformly; weights and state divide evenly over the GPUs",
    "decoding at half of --osl beyond --isl; a prompt's prefill runs alone",
)


def estimate(
    model: Model, recipe: Recipe, gpu: Gpu, workload: Workload, concurrency: int
) -> Estimate:
    """Speed of `concurrency` sequences of `isl` input and `osl` output tokens on `gpus` GPUs."""
    bandwidth = gpu.bandwidth_bytes_per_s * workload.gpus * BANDWIDTH_EFFICIENCY
    length = workload.isl + workload.osl / 2
    state = 2 * model.state_bytes_per_sequence(STATE_DTYPE)  # read and written
    terms = {
        "experts": _touched_expert_bytes(model, recipe, concurrency) / bandwidth,
        "other_weights": _other_bytes(model, recipe) / bandwidth,
        "attention": concurrency * length * model.kv_bytes_per_token(recipe.kv_dtype) / bandwidth,
        "state": concurrency * state / bandwidth,
        "overhead": len(model.pattern) * OVERHEAD_S_PER_LAYER,
    }
    tpot = sum(terms.values())
    ttft = _prefill_seconds(model, recipe, gpu, workload, bandwidth)
    batch_seconds = concurrency * ttft + workload.osl * tpot
    return Estimate(
        tpot_ms=tpot * 1e3,
        ttft_ms=ttft * 1e3,
        decode_tokens_per_s=concurrency / tpot,
        output_tokens_per_s=concurrency * workload.osl / batch_seconds,
        terms_ms={name: seconds * 1e3 for name, seconds in terms.items()},
        assumptions=ASSUMPTIONS,
    )


def _touched_expert_bytes(model: Model, recipe: Recipe, tokens: int) -> float:
    """Bytes of the distinct routed experts a batch of `tokens` hits: E (1 - (1 - k/E)^tokens) of E
    when each token draws its k experts uniformly."""
    if model.moe is None:
        return 0.0
    total = sum(size for role, size in recipe.bytes_by_role(model) if role is Role.EXPERT)
    missed = 1 - model.moe.top_k / model.moe.num_experts
    return total * (1 - missed**tokens)


def _other_bytes(model: Model, recipe: Recipe) -> int:
    """All weights read for every token: no routed expert, no embedding table, no MTP layer."""
    left_out = (Role.EXPERT, Role.EMBEDDING, Role.MTP)
    return sum(size for role, size in recipe.bytes_by_role(model) if role not in left_out)


def _prefill_seconds(
    model: Model, recipe: Recipe, gpu: Gpu, workload: Workload, bandwidth: float
) -> float:
    """One prompt: two operations per active parameter and token, and every weight read once."""
    rate = gpu.fp8_flops if recipe.format == "fp8" and gpu.fp8_flops else gpu.bf16_flops
    compute = 2 * model.parameters_active * workload.isl / (rate * workload.gpus)
    return max(compute / COMPUTE_EFFICIENCY, recipe.weights_bytes(model) / bandwidth)
