"""The metrics that are kept of what servers and exporters report; all others are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ...runtime import contract


@dataclass(frozen=True, slots=True)
class Known:
    """A metric that is kept.

    Attributes:
        chart: What is drawn together: one of `CHARTS`.
        unit: Of its values; of a counter, of what it counts.
        counter: Whether it only grows, so that its rate is what says something.
        factor: What its values are multiplied by, to have the unit.
    """

    chart: str
    unit: str
    counter: bool = False
    factor: float = 1.0


REQUESTS: Final = "Requests in the server"
CACHE: Final = "Caches of the server in use, %"
TOKENS: Final = "Tokens that the server counts, per second"
UTILISATION: Final = "Utilization of GPUs, %"
MEMORY: Final = "Memory of GPUs in use, GB"
POWER: Final = "Power of GPUs, W"
CHARTS: Final = (REQUESTS, CACHE, TOKENS, UTILISATION, MEMORY, POWER)
"""The caption of each chart."""

_PERCENT: Final = 100.0
_MIB_GB: Final = 2**20 / 1e9

UTILISATION_SMI, MEMORY_SMI, POWER_SMI = (
    "nvidia_smi_utilization_gpu", "nvidia_smi_memory_used", "nvidia_smi_power_draw",
)  # fmt: skip

METRICS: Final[Mapping[str, Known]] = {
    contract.RUNNING.name: Known(REQUESTS, "requests"),
    contract.WAITING.name: Known(REQUESTS, "requests"),
    contract.KV_CACHE_OCCUPANCY.name: Known(CACHE, "%", factor=_PERCENT),
    contract.MAMBA_STATE_OCCUPANCY.name: Known(CACHE, "%", factor=_PERCENT),
    contract.PROMPT_TOKENS.name: Known(TOKENS, "tokens", counter=True),
    contract.OUTPUT_TOKENS.name: Known(TOKENS, "tokens", counter=True),
    # Triton's own
    "nv_inference_pending_request_count": Known(REQUESTS, "requests"),
    "nv_gpu_utilization": Known(UTILISATION, "%", factor=_PERCENT),
    "nv_gpu_memory_used_bytes": Known(MEMORY, "GB", factor=1e-9),
    "nv_gpu_power_usage": Known(POWER, "W"),
    # vLLM; the last but one is the name of its earlier versions
    "vllm:num_requests_running": Known(REQUESTS, "requests"),
    "vllm:num_requests_waiting": Known(REQUESTS, "requests"),
    "vllm:kv_cache_usage_perc": Known(CACHE, "%", factor=_PERCENT),
    "vllm:gpu_cache_usage_perc": Known(CACHE, "%", factor=_PERCENT),
    "vllm:generation_tokens_total": Known(TOKENS, "tokens", counter=True),
    # NVIDIA's DCGM exporter; its memory is in MiB
    "DCGM_FI_DEV_GPU_UTIL": Known(UTILISATION, "%"),
    "DCGM_FI_DEV_FB_USED": Known(MEMORY, "GB", factor=_MIB_GB),
    "DCGM_FI_DEV_POWER_USAGE": Known(POWER, "W"),
    # `nvidia-smi` on this machine
    UTILISATION_SMI: Known(UTILISATION, "%"),
    MEMORY_SMI: Known(MEMORY, "GB", factor=_MIB_GB),
    POWER_SMI: Known(POWER, "W"),
}
"""Every metric that is kept, by its name in Prometheus' format."""

LABELS: Final = ("model", "model_name", "engine", "gpu", "gpu_uuid", "Hostname", "pod")
"""The labels that are kept."""
