"""The vocabulary: what a GPU, an architecture, a workload and a plan are. Frozen records, no I/O.

Models are described in `architecture`, formats in `formats`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

DEFAULT_SEQUENCES: Final = 64
"""Sequences that a server is configured for at most where no number is given."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU model. Rates are the vendor's dense figures.

    `memory_bytes` is what the driver reports, `cuda_bytes` the part of it that a process can have.
    `link_bytes_per_s` goes one way between GPUs of a node, over the `fabric`: `nvlink` joins all of
    them, a `bridge` two, `pcie` goes through the host. `product_labels` are what GPU feature
    discovery puts on a node as `nvidia.com/gpu.product`, `aliases` what drivers, tools and clouds
    call it otherwise. `variants` are cards of the same GPU with other rates. `note` is what
    to know before it is used, for example what counts as its memory. `gpus_per_node` is how many of
    them a machine has at most.
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
    note: str = ""
    gpus_per_node: int = 8

    def matrix_flops(self, operands: str) -> float:
        """Operations a second of its matrix units on `bf16` or `fp8` operands; of BF16 where it
        has no FP8 units."""
        return self.fp8_flops if operands == "fp8" and self.fp8_flops else self.bf16_flops

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name it goes by."""
        return (self.key, self.name, *self.product_labels, *self.aliases)


@dataclass(frozen=True, slots=True)
class ExpertRates:
    """What the kernels of one layer's routed experts reach: shares of the memory bandwidth and of
    the matrix rate for the format's operands, and seconds for sorting tokens and launching.
    `caveat` says what about them was not measured, in a clause; empty where all was."""

    bandwidth: float
    flops: float
    fixed_s: float
    caveat: str = ""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A GPU architecture (an SM version): its matrix units, and the shares of a GPU's rates that
    kernels reach on it.

    Attributes:
        operands: Number formats that its matrix units multiply, of `bf16` and `fp8`.
        weights: Bandwidth share of all weights but routed experts, at small batches.
        flops: Matrix rate share of the same at large batches, by operands.
        scores: Matrix rate share of attention over a prompt.
        layer_s: What a layer's launches, norms and small kernels take, by its letter; what routed
            experts take in addition is in `experts`.
        experts: Of routed experts, by format.
        source: What these figures rest on.
        like: The SM version that the figures were taken from; None where they are its own.
    """

    sm: int
    name: str
    operands: frozenset[str]
    weights: float
    flops: Mapping[str, float]
    scores: float
    layer_s: Mapping[str, float]
    experts: Mapping[str, ExpertRates]
    source: str
    like: int | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """What the deployment is planned for. Lengths in tokens.

    `max_num_tokens`, `mamba_state` and `kv_cache` are settings of the server, in the words of
    `--max-num-tokens`, `--mamba-state` and `--kv-cache`; None leaves each to the plan.
    """

    context: int | None = None
    concurrency: int | None = None
    isl: int = 1024
    osl: int = 256
    gpus: int = 1
    max_num_tokens: int | None = None
    mamba_state: str | None = None
    kv_cache: str | None = None

    @property
    def settled(self) -> frozenset[str]:
        """Fields of `Serving` that were chosen, and which a plan therefore leaves as they are."""
        chosen = {
            "step_tokens": self.max_num_tokens,
            "state_dtype": self.mamba_state,
            "kv_dtype": self.kv_cache,
        }
        return frozenset(name for name, value in chosen.items() if value is not None)


@dataclass(frozen=True, slots=True)
class Serving:
    """How a server is configured, as far as that decides how much memory caches get.

    Attributes:
        step_tokens: Tokens of one forward pass; longer prompts take several.
        graph_batch: The largest batch of which a CUDA graph is captured.
        cache_share: Share of the memory left after loading that caches may take.
        kv_dtype: Safetensors dtype of the KV cache.
        state_dtype: Safetensors dtype of the recurrent Mamba state.
    """

    step_tokens: int
    graph_batch: int
    cache_share: float
    kv_dtype: str
    state_dtype: str


@dataclass(frozen=True, slots=True)
class Concession:
    """What a plan gives up of a server's usual configuration so that the model fits.

    `setting` is the engine's argument, `usual` and `chosen` are its values, and `cost` says what
    that costs.
    """

    setting: str
    usual: str
    chosen: str
    cost: str


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
class EnginePart:
    """What an engine contributes to a plan. A refused plan has the first five fields only.

    `versions` is a version specifier. `backend` names in words what generates tokens, `plugin` the
    module that a bundle adds to the engine. `args` are the engine's own arguments, `env` is
    environment of the server, `needs` what serving needs that a bundle does not bring. `evidence`
    says in sentences what has and has not run on hardware, `tested_on` lists the GPUs. `proven` is
    whether what serves the plan has served on such a GPU, by us or by the engine's makers.
    """

    name: str
    title: str
    executor: str
    versions: str
    image: str
    backend: str = "none"
    plugin: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    evidence: str = ""
    tested_on: tuple[str, ...] = ()
    proven: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be built, whether it fits, and who can run it.

    `status`: `supported` (the engine runs it, with a plugin where `engine` names one), `needs`
    (buildable; to be served on a GPU it needs what `engine.needs` lists), `refused` (see `reasons`;
    `alternatives` say what works) or `compared` (a peer: planned, never built). `layers` says what
    is quantized, `notes` are warnings. The server is configured for `concurrency` sequences of
    `context` tokens; `max_concurrency` is how many of them fit, `max_context` how long they could
    be. `serving` is the configuration of the server, `concessions` what it gives up to fit.
    `conv_bytes_per_sequence` are part of `state_bytes_per_sequence`.
    """

    model: str
    gpu: str
    gpu_name: str
    gpus: int
    sm: int
    quant: Mapping[str, str | None]
    layers: str
    status: str
    rule: str
    reasons: tuple[str, ...]
    alternatives: tuple[str, ...]
    notes: tuple[str, ...]
    engine: EnginePart
    serving: Serving
    concessions: tuple[Concession, ...]
    weights_bytes: int
    kv_dtype: str
    kv_bytes_per_token: int
    state_bytes_per_sequence: int
    conv_bytes_per_sequence: int
    memory: Mapping[str, int]
    free_bytes: int
    concurrency: int
    context: int
    max_concurrency: int
    max_context: int
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

    `name` is the bundle's name and a DNS label; `model_name` the Triton model's. `executor` is what
    generates tokens in it. Sizes in bytes.
    """

    name: str
    model_name: str
    image: str
    gpu: Gpu
    gpus: int
    quant: str
    bundle_bytes: int
    executor: str
    max_batch_size: int
    env: Mapping[str, str] = field(default_factory=dict)
