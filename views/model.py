"""View of `inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from rich.console import Console, RenderableType
from rich.text import Text

from ..api.inspect import InspectResult
from .parts import amount, facts, heading, show, stacked_bar


def inspection(console: Console, result: InspectResult) -> None:
    """What a model is and what it weighs."""
    counts = {field.name: getattr(result.layers, field.name) for field in fields(result.layers)}
    layers = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    total, experts = result.parameters_total, result.experts
    rows: list[tuple[str, RenderableType]] = [
        ("architecture", result.architecture),
        ("layers", f"{sum(counts.values())}: {layers}"),
        ("pattern", result.pattern),
        ("parameters", f"{total:,} ({amount(total, '')})"),
        ("active per token", f"{result.parameters_active:,} without the embedding table"),
    ]
    if experts:
        chosen = f"{experts.routed} routed, {experts.per_token} per token"
        rows.append(("experts", f"{chosen}, width {experts.width}"))
    dtypes = ", ".join(f"{name} {amount(size)}" for name, size in result.dtypes.items())
    kv, state = result.kv_bytes_per_token, result.state_bytes_per_sequence
    rows += [
        ("weights", f"{amount(result.bytes)} in {result.tensors:,} tensors ({dtypes})"),
        ("KV cache", f"{kv.bf16:,} B a token in BF16, {kv.fp8:,} B in FP8"),
        ("Mamba state", f"{amount(state.fp32)} a sequence in FP32, {amount(state.bf16)} in BF16"),
    ]
    if result.weights:
        rows.append(("configuration", _agreement(result)))
    rows += [("note", note) for note in result.notes]
    if quantized := result.quantized or result.quantization:
        rows.append(("quantized", quantized))
    bar = stacked_bar(_largest(result.parameters_by_role), unit="")
    show(console, heading(result.model, result.source), facts(rows), bar)


def _agreement(result: InspectResult) -> RenderableType:
    if result.differences:
        text = Text("differs: ", style="bold red")
        return Text.assemble(text, ("; ".join(result.differences), "default"))
    return "agrees with names and shapes of all tensors"


def _largest(parts: Mapping[str, int], count: int = 5) -> dict[str, float]:
    """The largest parts, and all others together."""
    ranked = sorted(parts.items(), key=lambda item: -item[1])
    rest = sum(value for _, value in ranked[count:])
    shown: dict[str, float] = dict(ranked[:count])
    return shown | ({"other": rest} if rest else {})
