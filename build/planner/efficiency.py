"""The shares of a GPU's rates that kernels reach on every architecture, and the fixed cost of a
step. The shares that differ by architecture are in `model/catalog/architectures.json`.

Fitted to kernels that aiconfigurator's tables measure with TensorRT-LLM 1.3.0rc10 and rc20 (A100:
1.0.0), unless a line says otherwise; `docs/planner.md` has how far off the fits are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of rates that are reached, and fixed costs in seconds, on all GPUs.

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
            the fixed part of a step: 1, or as fitted to a load test of your own. `off` is the
            largest relative error of that fit.
    """

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
