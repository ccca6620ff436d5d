"""`inspect`: what a model is and what it weighs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..core.result import Result
from ..model.architecture import Model, Role
from ..model.recipe import Recipe
from ..sources.checkpoint_source import Source, resolve


@dataclass(frozen=True, slots=True)
class LayerCounts:
    """Layers of each kind."""

    mamba: int
    attention: int
    moe: int
    mlp: int


@dataclass(frozen=True, slots=True)
class ExpertFacts:
    """The mixture of experts of one layer."""

    routed: int
    per_token: int
    width: int
    shared_width: int


@dataclass(frozen=True, slots=True)
class KvBytes:
    """KV cache bytes of one token, by the cache's dtype."""

    bf16: int
    fp8: int


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Mamba state bytes of one sequence, by the state's dtype."""

    fp32: int
    bf16: int


@dataclass(frozen=True, slots=True)
class InspectResult(Result):
    """What a model is and what it weighs.

    `weights` is whether the sizes are those of a checkpoint that is here; otherwise they follow
    from the configuration. `bytes`, `dtypes` (bytes of each) and `tensors` are of the checkpoint.
    `quantization` is what the configuration calls the format of a quantized checkpoint, `quantized`
    says what its tensors hold, or are declared to hold, and who made it. `notes` say what was read
    in another spelling or left out. `differences` say how the checkpoint differs from its
    configuration; one that does cannot be quantized or built.
    """

    SCHEMA: ClassVar[int] = 1

    model: str
    source: str
    weights: bool
    architecture: str
    quantization: str | None
    quantized: str | None
    parameters_total: int
    parameters_active: int
    parameters_active_with_embedding: int
    parameters_by_role: Mapping[str, int]
    pattern: str
    layers: LayerCounts
    experts: ExpertFacts | None
    hidden_size: int
    vocab_size: int
    max_positions: int
    bytes: int
    dtypes: Mapping[str, int]
    tensors: int
    notes: tuple[str, ...]
    differences: tuple[str, ...]
    kv_bytes_per_token: KvBytes
    state_bytes_per_sequence: StateBytes


def inspect(name: str) -> InspectResult:
    """Facts of the checkpoint, configuration or known model `name`.

    Sizes of a checkpoint that is here are its own; without one they follow from the configuration
    and the format that it declares. Raises `BadInputError` for what cannot be read.
    """
    source = resolve(name)
    model, checkpoint = source.model, source.checkpoint
    roles: Counter[str] = Counter()
    for group in model.tensors():
        roles[group.role.value] += group.parameters
    stored = source.stored
    if checkpoint is not None:
        sizes = [(info.dtype, info.bytes) for info in checkpoint.tensors.values()]
    else:
        recipe = stored.recipe if stored else Recipe("bf16")
        sizes = [(tensor.dtype, tensor.bytes) for tensor in recipe.tensors(model)]
    dtypes: Counter[str] = Counter()
    for dtype, size in sizes:
        dtypes[dtype] += size
    notes = checkpoint.notes if checkpoint else model.notes
    return InspectResult(
        model=source.slug,
        source=source.place,
        weights=checkpoint is not None,
        architecture=model.config["architectures"][0],
        quantization=_quantization(source),
        quantized=stored.summary if stored else None,
        parameters_total=model.parameters_total,
        parameters_active=model.parameters_active,
        parameters_active_with_embedding=model.parameters_active + roles[Role.EMBEDDING],
        parameters_by_role=dict(roles),
        pattern=model.pattern,
        layers=LayerCounts(*map(model.layer_count, "M*E-")),
        experts=_experts(model),
        hidden_size=model.hidden_size,
        vocab_size=model.vocab_size,
        max_positions=model.max_positions,
        bytes=sum(dtypes.values()),
        dtypes=dict(dtypes),
        tensors=len(sizes),
        notes=notes,
        differences=checkpoint.differences if checkpoint else (),
        kv_bytes_per_token=KvBytes(
            bf16=model.kv_bytes_per_token("BF16"), fp8=model.kv_bytes_per_token("F8_E4M3")
        ),
        state_bytes_per_sequence=StateBytes(
            fp32=model.state_bytes_per_sequence("F32"), bf16=model.state_bytes_per_sequence("BF16")
        ),
    )


def _quantization(source: Source) -> str | None:
    """The algorithm or method that the configuration names, None for an unquantized model."""
    entry = source.model.config.get("quantization_config") or {}
    named = entry.get("quant_algo") or entry.get("quant_method")
    if isinstance(named, str):
        return named
    if source.stored is not None:
        return source.stored.name
    return "not named" if entry else None


def _experts(model: Model) -> ExpertFacts | None:
    if model.moe is None:
        return None
    moe = model.moe
    return ExpertFacts(moe.num_experts, moe.top_k, moe.width, moe.shared_width)
