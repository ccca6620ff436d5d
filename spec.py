"""The vocabulary: what a GPU, a format, a workload and a plan are. Frozen records, no I/O.

What a model is stands in `architecture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU model. Memory is what the driver reports; rates are the vendor's dense figures.

    `product_labels` are what GPU feature discovery puts on a node as `nvidia.com/gpu.product`,
    `aliases` what drivers, tools and clouds call it otherwise.
    """

    key: str
    name: str
    sm: int
    memory_bytes: int
    bandwidth_bytes_per_s: float
    bf16_flops: float
    fp8_flops: float | None
    product_labels: tuple[str, ...]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quant:
    """What a user asks for with `--quant`, and the format that results."""

    key: str
    name: str
    bits: int


QUANTS: Final[Mapping[str, Quant]] = {
    quant.key: quant
    for quant in (
        Quant("bf16", "BF16, unquantized", 16),
        Quant("fp8", "FP8 E4M3, per-tensor weights and activations", 8),
        Quant("int4", "INT4 weights, symmetric, group 64", 4),
        Quant("nvfp4", "NVFP4 weights (4-bit float), BF16 activations", 4),
    )
}


@dataclass(frozen=True, slots=True)
class Workload:
    """What the deployment is planned for. Lengths in tokens."""

    context: int | None = None
    concurrency: int | None = None
    isl: int = 1024
    osl: int = 256
    gpus: int = 1


@dataclass(frozen=True, slots=True)
class Point:
    """Estimated speed at one concurrency. `decode_tokens_per_s` of all sequences while decoding,
    `output_tokens_per_s` with their prefill, both of the whole deployment."""

    concurrency: int
    tpot_ms: float
    ttft_ms: float
    decode_tokens_per_s: float
    output_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A roofline estimate of one deployment's speed, with the assumptions it rests on. `curve` has
    the same for a range of concurrencies."""

    tpot_ms: float
    ttft_ms: float
    decode_tokens_per_s: float
    output_tokens_per_s: float
    terms_ms: Mapping[str, float]
    curve: tuple[Point, ...]
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be built, whether it fits, and who can run it.

    `status`: `supported` (TensorRT-LLM runs it, with `plugin` where that is not empty), `needs`
    (buildable; to be served on a GPU it needs what `needs` lists) or `refused` (see `reasons`;
    `alternatives` say what works). `tried` says what of it has and has not run on hardware.
    """

    model: str
    gpu: str
    gpus: int
    sm: int
    quant: Mapping[str, str | None]
    status: str
    rule: str
    reasons: tuple[str, ...]
    needs: tuple[str, ...]
    alternatives: tuple[str, ...]
    backend: str
    plugin: str
    image: str
    trtllm_versions: str
    tried: str
    weights_bytes: int
    kv_bytes_per_token: int
    state_bytes_per_sequence: int
    memory: Mapping[str, int]
    free_bytes: int
    max_concurrency: int
    max_context: int
    llm_args: Mapping[str, Any]
    estimate: Estimate | None

    @property
    def supported(self) -> bool:
        return self.status == "supported"

    @property
    def buildable(self) -> bool:
        return self.status != "refused"


@dataclass(frozen=True, slots=True)
class Deployment:
    """What Kubernetes and Triton must know of a bundle.

    `name` is the bundle's name and a DNS label; `model_name` the Triton model's. Sizes in bytes.
    """

    name: str
    model_name: str
    image: str
    gpu: Gpu
    gpus: int
    quant: str
    bundle_bytes: int
    max_batch_size: int
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its result; `detail` says what was seen."""

    name: str
    ok: bool
    detail: str
