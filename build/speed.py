"""How fast: the bytes and operations a step really needs, over the share of the GPU's rates that is
reached, plus fixed costs. Estimates, never measurements.

Each term has its own share (`Efficiency`); `docs/planner.md` says what each was fitted to and how
far the results are from published figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from ..architecture import Model, Role
from ..recipe import Recipe
from ..spec import Estimate, Gpu, Point, Workload
from .llm_args import MAX_NUM_TOKENS
from .memory import STATE_DTYPE


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of the vendor's rates that are reached, and fixed costs in seconds.

    Expert figures are fitted to an expert layer of Nano measured with TensorRT-LLM 1.3.0rc10 on an
    H100 at 1 to 8192 tokens in BF16 and FP8; the others are assumed. INT4 and NVFP4 take the share
    of bytes that BF16 reaches: neither was measured. `decode` and `prefill` scale whole phases, for
    a load test of one's own (`calibrated`).
    """

    expert_bytes: float = 0.92
    expert_flops: float = 0.585
    expert_flops_fp8: float = 0.48
    expert_layer_s: float = 25e-6
    other_bytes: float = 0.8
    other_flops: float = 0.35
    cache_bytes: float = 0.8
    layer_s: float = 15e-6
    step_s: float = 200e-6
    decode: float = 1.0
    prefill: float = 1.0


DEFAULT: Final = Efficiency()

CONCURRENCIES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def estimate(
    model: Model,
    recipe: Recipe,
    gpu: Gpu,
    workload: Workload,
    concurrency: int,
    most: int,
    reached: Efficiency = DEFAULT,
) -> Estimate:
    """Speed of `concurrency` sequences of `isl` input and `osl` output tokens on `gpus` GPUs, and
    along a curve of concurrencies up to `most`, which is what fits."""
    found = _Speed(model, recipe, gpu, workload, reached)
    terms = found.decode_terms(concurrency)
    here = found.point(concurrency)
    places = sorted({n for n in CONCURRENCIES if n <= most} | {concurrency})
    return Estimate(
        tpot_ms=here.tpot_ms,
        ttft_ms=here.ttft_ms,
        decode_tokens_per_s=here.decode_tokens_per_s,
        output_tokens_per_s=here.output_tokens_per_s,
        terms_ms={name: seconds * 1e3 for name, seconds in terms.items()},
        curve=tuple(found.point(place) for place in places),
        assumptions=_assumptions(recipe, reached),
    )


def expert_layer_s(
    model: Model,
    recipe: Recipe,
    gpu: Gpu,
    tokens: int,
    reached: Efficiency = DEFAULT,
) -> float:
    """Seconds of the routed experts of one MoE layer for `tokens` tokens on one GPU."""
    return _Speed(model, recipe, gpu, Workload(), reached).expert_layer_s(tokens)


def calibrated(
    measured: Iterable[tuple[int, float, float]], estimated: Estimate, base: Efficiency = DEFAULT
) -> Efficiency:
    """`base` with its phases scaled to a load test: `measured` has (concurrency, milliseconds of
    one token, milliseconds to the first token) of each level that is on the estimate's curve.

    Decoding is scaled by the median over levels; prefill by the lowest level's time to the first
    token, where requests hardly wait for each other. Raises ValueError where no level matches.
    """
    points = {point.concurrency: point for point in estimated.curve}
    rows = sorted((n, tpot, ttft) for n, tpot, ttft in measured if n in points)
    if any(tpot <= 0 or ttft <= 0 for _, tpot, ttft in rows):
        raise ValueError("times must be above 0")
    if not rows:
        raise ValueError(
            f"no level of the load test is among the concurrencies {sorted(points)} of the estimate"
        )
    decode = median(points[n].tpot_ms / tpot for n, tpot, _ in rows)
    lowest, _, ttft = rows[0]
    return replace(
        base,
        decode=base.decode * decode,
        prefill=base.prefill * points[lowest].ttft_ms / ttft,
    )


class _Speed:
    """One model in one format on one kind of GPU."""

    def __init__(
        self, model: Model, recipe: Recipe, gpu: Gpu, workload: Workload, reached: Efficiency
    ) -> None:
        self.model, self.recipe, self.workload, self.reached = model, recipe, workload, reached
        self.bandwidth = gpu.bandwidth_bytes_per_s * workload.gpus
        self.bf16_flops = gpu.bf16_flops * workload.gpus
        fp8 = recipe.format == "fp8" and gpu.fp8_flops is not None
        self.expert_flops = workload.gpus * (
            (gpu.fp8_flops or 0.0) * reached.expert_flops_fp8
            if fp8
            else gpu.bf16_flops * reached.expert_flops
        )
        self.expert_layers = model.layer_count("E")
        self.plain_layers = len(model.pattern) - self.expert_layers
        sizes = {Role.EXPERT: [0, 0]}
        for group in model.tensors():
            total = sizes.setdefault(group.role, [0, 0])
            total[0] += group.count * sum(stored.bytes for stored in recipe.stored(group))
            total[1] += group.parameters
        self.expert_bytes, self.expert_values = sizes[Role.EXPERT]
        left_out = (Role.EXPERT, Role.EMBEDDING, Role.MTP)
        self.other_bytes, self.other_values = (
            sum(total[place] for role, total in sizes.items() if role not in left_out)
            for place in (0, 1)
        )
        self.kv_bytes = model.kv_bytes_per_token(recipe.kv_dtype)
        self.state_bytes = model.state_bytes_per_sequence(STATE_DTYPE)

    def point(self, concurrency: int) -> Point:
        tpot = sum(self.decode_terms(concurrency).values())
        ttft = self.prefill_s()
        batch = concurrency * ttft + self.workload.osl * tpot
        return Point(
            concurrency=concurrency,
            tpot_ms=tpot * 1e3,
            ttft_ms=ttft * 1e3,
            decode_tokens_per_s=concurrency / tpot,
            output_tokens_per_s=concurrency * self.workload.osl / batch,
        )

    def decode_terms(self, concurrency: int) -> dict[str, float]:
        """Seconds of one decoding step of `concurrency` sequences, by what they go to."""
        reached = self.reached
        length = self.workload.isl + self.workload.osl / 2
        caches = self.bandwidth * reached.cache_bytes
        terms = {
            "experts": self.expert_layers * self.expert_layer_s(concurrency),
            "other_weights": self.other_s(concurrency),
            "attention": concurrency * length * self.kv_bytes / caches,
            "state": 2 * concurrency * self.state_bytes / caches,  # read and written
            "overhead": self.plain_layers * reached.layer_s + reached.step_s,
        }
        return {name: seconds / reached.decode for name, seconds in terms.items()}

    def prefill_s(self) -> float:
        """Seconds from a prompt's arrival at an idle server to its first token."""
        reached, isl = self.reached, self.workload.isl
        seconds, left = reached.step_s, isl
        while left > 0:
            chunk = min(left, MAX_NUM_TOKENS)
            seconds += self.expert_layers * self.expert_layer_s(chunk) + self.other_s(chunk)
            seconds += self.plain_layers * reached.layer_s
            left -= chunk
        attention = self.model.attention
        # Scores and values: each token looks at half of the prompt on average.
        operations = 4 * isl * (isl / 2) * attention.num_heads * attention.head_dim
        operations *= self.model.layer_count("*")
        return (seconds + operations / (self.bf16_flops * reached.other_flops)) / reached.prefill

    def expert_layer_s(self, tokens: int) -> float:
        """Seconds of one layer's routed experts: the weights of the distinct experts that a batch
        hits, E (1 - (1 - k/E)^tokens) of E when each token draws its k of E experts uniformly, and
        two operations a weight for each chosen expert."""
        moe = self.model.moe
        if moe is None:
            return 0.0
        share = moe.top_k / moe.num_experts
        weights = self.expert_bytes / self.expert_layers * (1 - (1 - share) ** tokens)
        operations = 2 * self.expert_values / self.expert_layers * share * tokens
        return (
            self.reached.expert_layer_s
            + weights / (self.bandwidth * self.reached.expert_bytes)
            + operations / self.expert_flops
        )

    def other_s(self, tokens: int) -> float:
        """Seconds of all weights but routed experts, embedding table and MTP layers."""
        read = self.other_bytes / (self.bandwidth * self.reached.other_bytes)
        multiplied = 2 * self.other_values * tokens
        return max(read, multiplied / (self.bf16_flops * self.reached.other_flops))


def _assumptions(recipe: Recipe, reached: Efficiency) -> tuple[str, ...]:
    lines = [
        "an estimate from bytes and operations, not a measurement",
        f"experts reach {reached.expert_bytes:.0%} of the vendor's memory bandwidth, other weights "
        f"and caches {reached.other_bytes:.0%}; docs/planner.md has more, and how far off it is",
        "tokens choose experts uniformly; weights and state divide evenly over the GPUs",
        "decoding at half of --osl beyond --isl; a prompt's prefill runs alone",
    ]
    if recipe.format in ("int4", "nvfp4"):
        lines.append(f"{recipe.key.upper()} expert kernels were not measured: as efficient as BF16")
    if reached.decode != 1 or reached.prefill != 1:
        lines.append(
            f"scaled to a load test: decoding {1 / reached.decode:.2f} times, prefill "
            f"{1 / reached.prefill:.2f} times as long"
        )
    return tuple(lines)
