"""The vocabulary: what a GPU, a format, a workload and a plan are. Frozen records, no I/O.

What a model is stands in `architecture`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU model. Rates are the vendor's dense figures.

    `memory_bytes` is what the driver reports, `cuda_bytes` the part of it that a process can have.
    `link_bytes_per_s` goes one way between GPUs of a node, over the `fabric`: `nvlink` joins all of
    them, a `bridge` two, `pcie` goes through the host. `product_labels` are what GPU feature
    discovery puts on a node as `nvidia.com/gpu.product`, `aliases` what drivers, tools and clouds
    call it otherwise. `variants` are cards of the same GPU with other rates.
    """

    key: str
    name: str
    sm: int
    memory_bytes: int
    cuda_bytes: int
    bandwidth_bytes_per_s: float
    bf16_flops: float
    fp8_flops: float | None
    link_bytes_per_s: float
    fabric: str
    product_labels: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    variants: tuple[Gpu, ...] = ()

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name it goes by."""
        return (self.key, self.name, *self.product_labels, *self.aliases)


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
    """Estimated speed at one concurrency.

    `tpot_ms` is of a step that only decodes, `itl_ms` the mean gap between a sequence's tokens with
    others' prompts among them. `decode_tokens_per_s` of all sequences while decoding,
    `output_tokens_per_s` with prefill, both of the whole deployment; `prompt_share` is the share of
    its time that goes to prompts.
    """

    concurrency: int
    tpot_ms: float
    ttft_ms: float
    itl_ms: float
    decode_tokens_per_s: float
    output_tokens_per_s: float
    prompt_share: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A roofline estimate of one deployment's speed, with the assumptions it rests on: that of the
    concurrency it is set up for (as in `Point`), and a `curve` over a range of concurrencies."""

    tpot_ms: float
    ttft_ms: float
    itl_ms: float
    decode_tokens_per_s: float
    output_tokens_per_s: float
    terms_ms: Mapping[str, float]
    curve: tuple[Point, ...]
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be built, whether it fits, and who can run it.

    `status`: `supported` (TensorRT-LLM runs it, with `plugin` where that is not empty), `needs`
    (buildable; to be served on a GPU it needs what `needs` lists), `refused` (see `reasons`;
    `alternatives` say what works) or `compared` (a peer: planned, never built). `notes` say what
    to mind, `tried` what of it has and has not run on hardware. `conv_bytes_per_sequence` are part
    of `state_bytes_per_sequence`.
    """

    model: str
    gpu: str
    gpu_name: str
    gpus: int
    sm: int
    quant: Mapping[str, str | None]
    status: str
    rule: str
    reasons: tuple[str, ...]
    needs: tuple[str, ...]
    alternatives: tuple[str, ...]
    notes: tuple[str, ...]
    backend: str
    plugin: str
    image: str
    trtllm_versions: str
    tried: str
    weights_bytes: int
    kv_bytes_per_token: int
    state_bytes_per_sequence: int
    conv_bytes_per_sequence: int
    memory: Mapping[str, int]
    free_bytes: int
    max_concurrency: int
    max_context: int
    llm_args: Mapping[str, Any]
    env: Mapping[str, str]
    estimate: Estimate | None

    @property
    def supported(self) -> bool:
        return self.status == "supported"

    @property
    def refused(self) -> bool:
        return self.status == "refused"

    @property
    def buildable(self) -> bool:
        return self.status in ("supported", "needs")


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
