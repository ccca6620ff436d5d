"""How much of a GPU's rates is reached, and what a step costs whatever its size.

Fitted to kernels that aiconfigurator's tables measure with TensorRT-LLM 1.3.0rc10 and rc20, unless
a line says otherwise; `docs/planner.md` has the fits and how far off they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class ExpertRates:
    """Of the routed experts of one layer: shares of the memory bandwidth and of the matrix rate for
    the format's operands, and seconds for sorting tokens and launching."""

    bandwidth: float
    flops: float
    fixed_s: float


_MARLIN: Final = ExpertRates(0.83, 0.45, 32e-6)
"""INT4 experts of other models in SGLang's Marlin kernels on A100 and L40S; neither ours nor NVFP4
was measured."""

_MARLIN_HOPPER: Final = ExpertRates(0.83, 0.25, 32e-6)
"""The same on H100, whose full matrix rate these kernels do not use."""

_EXPERTS: Final[Mapping[str, ExpertRates]] = {
    "bf16": ExpertRates(0.93, 0.56, 31e-6),
    "fp8": ExpertRates(0.95, 0.44, 35e-6),
}

_SLOWER_STARTS: Final[Mapping[int, float]] = {80: 1.7, 86: 1.7}
"""Times as long as on H100 that small products, attention and Marlin's experts take on A100, by SM
version; A10 is taken for the same."""

_LAYER_S: Final[Mapping[str, float]] = {"M": 22e-6, "*": 23e-6, "E": 18e-6, "-": 14e-6}


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of the vendor's rates that are reached, and fixed costs in seconds.

    Attributes:
        weights: Bandwidth share of all weights but routed experts, at small batches.
        flops: Matrix rate share of the same, at large batches.
        kv: Bandwidth share of attention over the KV cache while decoding.
        scores: Matrix rate share of attention over a prompt.
        passes: Bandwidth share of Mamba's state update (measured in vLLM on an H200), of its scan
            and of element-wise passes.
        layer_s: What a layer's launches, norms and small kernels take on H100, by its letter; what
            routed experts take beside stands in `experts`. `starts` has how many times as long
            other GPUs take, by SM version.
        step_s: Sampling and the start of one step on the GPU. Assumed.
        host_s: What the server's processor needs for a step, and `host_sequence_s` for each of its
            sequences; the GPU waits where that is longer. Fitted to served Llama 3.1 8B and Nano on
            8 H100 (TensorRT-LLM 1.0 to 1.2).
        flops_fp8: The same for products of FP8 operands.
        prefill: Share of the kernels' rates that prompts reach in a served model, and
            `prefill_experts` that of routed experts. Fitted to published throughputs with long
            prompts, all of them vLLM's.
        link: Share of a link's rate that an all-reduce reaches, and `link_s` its latency. Through
            the host, latency grows with the GPUs, and `crowd` is the power of their number by which
            the rate falls.
        skew: Exponent of the power law by which tokens prefer experts; 0 is no preference.
        work: Scale of the time that bytes and operations take while decoding, and `fixed` of what
            a step takes in any case: 1, or what one's own load test gives, which `off` says how
            well they meet: the largest relative error of its levels.
    """

    weights: float = 0.85
    flops: float = 0.75
    flops_fp8: float = 0.6
    kv: float = 0.8
    scores: float = 0.5
    passes: float = 0.75
    layer_s: Mapping[str, float] = field(default_factory=lambda: _LAYER_S)
    starts: Mapping[int, float] = field(default_factory=lambda: _SLOWER_STARTS)
    step_s: float = 200e-6
    host_s: float = 1.3e-3
    host_sequence_s: float = 45e-6
    prefill: float = 0.85
    prefill_experts: float = 0.45
    link: float = 0.6
    link_s: float = 3e-6
    crowd: float = 1.7
    skew: float = 0.4
    work: float = 1.0
    fixed: float = 1.0
    off: float = 0.0

    def experts(self, stored_as: str, sm: int) -> ExpertRates:
        """Of experts in the format `stored_as` (a recipe's) on a GPU of that SM version."""
        found = _EXPERTS.get(stored_as) or (_MARLIN_HOPPER if sm == 90 else _MARLIN)
        return replace(found, fixed_s=found.fixed_s * self.starts.get(sm, 1.0))


DEFAULT: Final = Efficiency()
