"""How much of a GPU's rates is reached, and what a step costs whatever its size.

Fitted to kernels that aiconfigurator's tables measure with TensorRT-LLM 1.3.0rc10 and rc20 (A100:
1.0.0), unless a line says otherwise; `docs/planner.md` has how far off the fits are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class ExpertRates:
    """Of the routed experts of one layer: shares of the memory bandwidth and of the matrix rate for
    the format's operands, and seconds for sorting tokens and launching. `caveat` says what about
    them was not measured, in a clause; empty where all was."""

    bandwidth: float
    flops: float
    fixed_s: float
    caveat: str = ""


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one architecture.

    Attributes:
        weights: Bandwidth share of all weights but routed experts, at small batches.
        flops: Matrix rate share of the same in BF16, at large batches; `flops_fp8` in FP8.
        scores: Matrix rate share of attention over a prompt.
        layer_s: What a layer's launches, norms and small kernels take, by its letter; what routed
            experts take beside stands in `experts`, by a recipe's format.
    """

    weights: float
    flops: float
    flops_fp8: float
    scores: float
    layer_s: Mapping[str, float]
    experts: Mapping[str, ExpertRates]


def _four_bits(flops: float, fixed_s: float) -> dict[str, ExpertRates]:
    """What Marlin's INT4 experts reach with other models, in SGLang and vLLM. On H100 such kernels
    do not use the full matrix rate."""
    caveat = (
        "the kernels were not measured on such a GPU: taken to be as efficient as Marlin's INT4"
    )
    return dict.fromkeys(("int4", "nvfp4"), ExpertRates(0.83, flops, fixed_s, caveat))


_HOPPER: Final = Rates(
    weights=0.85,
    flops=0.75,
    flops_fp8=0.6,
    scores=0.5,
    layer_s={"M": 22e-6, "*": 23e-6, "E": 18e-6, "-": 14e-6},
    experts={
        "bf16": ExpertRates(0.93, 0.56, 31e-6),
        "fp8": ExpertRates(0.95, 0.44, 35e-6),
        **_four_bits(0.25, 32e-6),
        # Ours, on an H200 (docs/hardware.md): 14 us, and 10 assumed for the router's launches.
        "int4": ExpertRates(
            0.78, 0.42, 24e-6, "measured on an H200 without the router, for which 10 us are assumed"
        ),
    },
)

_ADA: Final = Rates(
    weights=0.9,
    flops=0.6,
    flops_fp8=0.48,
    scores=0.38,
    layer_s=_HOPPER.layer_s,
    experts={
        "bf16": ExpertRates(0.85, 0.57, 42e-6),
        "fp8": ExpertRates(0.85, 0.4, 42e-6),
        **_four_bits(0.45, 32e-6),
    },
)

_AMPERE: Final = Rates(
    weights=0.78,
    flops=0.8,
    flops_fp8=0.0,  # these have no FP8 units
    scores=0.44,
    # Small products, attention and all-reduces start 1.7 times as slowly as on H100.
    layer_s={letter: 1.7 * seconds for letter, seconds in _HOPPER.layer_s.items()},
    experts={"bf16": ExpertRates(0.9, 0.48, 53e-6), **_four_bits(0.45, 54e-6)},
)

_RATES: Final[Mapping[int, Rates]] = {80: _AMPERE, 86: _AMPERE, 89: _ADA, 90: _HOPPER}
"""By SM version; A10 is taken for an A100, L4 for an L40S."""


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares that are reached and fixed costs in seconds, on all GPUs and, in `rates`, by their SM
    version.

    Attributes:
        kv: Bandwidth share of attention over the KV cache while decoding.
        passes: Bandwidth share of Mamba's state update (measured in vLLM on an H200), of its scan
            and of element-wise passes.
        step_s: Sampling and the start of one step on the GPU. Assumed.
        host_s: What the server's processor needs for a step, and `host_sequence_s` for each of its
            sequences; the GPU waits where that is longer. Fitted to served Llama 3.1 8B and Nano on
            8 H100 (TensorRT-LLM 1.0 to 1.2).
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

    rates: Mapping[int, Rates] = field(default_factory=lambda: _RATES)
    kv: float = 0.8
    passes: float = 0.75
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


DEFAULT: Final = Efficiency()
