"""View of `inspect`."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType

from .parts import amount, facts, heading, show, stacked_bar


def inspection(console: Console, found: dict[str, Any]) -> None:
    """What a model is and what it weighs."""
    layers = ", ".join(f"{count} {kind}" for kind, count in found["layers"].items() if count)
    experts = found["experts"]
    rows: list[tuple[str, RenderableType]] = [
        ("architecture", found["architecture"]),
        ("layers", f"{sum(found['layers'].values())}: {layers}"),
        ("pattern", found["pattern"]),
        ("parameters", f"{found['parameters_total']:,} ({amount(found['parameters_total'], '')})"),
        ("active per token", f"{found['parameters_active']:,} without the embedding table"),
    ]
    if experts:
        chosen = f"{experts['routed']} routed, {experts['per_token']} per token"
        rows.append(("experts", f"{chosen}, width {experts['width']}"))
    dtypes = ", ".join(f"{name} {amount(size)}" for name, size in found["dtypes"].items())
    kv, state = found["kv_bytes_per_token"], found["state_bytes_per_sequence"]
    rows += [
        ("weights", f"{amount(found['bytes'])} in {found['tensors']:,} tensors ({dtypes})"),
        ("KV cache", f"{kv['bf16']:,} B a token in BF16, {kv['fp8']:,} B in FP8"),
        (
            "Mamba state",
            f"{amount(state['fp32'])} a sequence in FP32, {amount(state['bf16'])} in BF16",
        ),
    ]
    if found["quantization"]:
        rows.append(("quantization", found["quantization"]))
    bar = stacked_bar(_largest(found["parameters_by_role"]), unit="")
    show(console, heading(found["model"], found["source"]), facts(rows), bar)


def _largest(parts: dict[str, int], count: int = 5) -> dict[str, float]:
    """The largest parts, and all others together."""
    ranked = sorted(parts.items(), key=lambda item: -item[1])
    rest = sum(value for _, value in ranked[count:])
    shown: dict[str, float] = dict(ranked[:count])
    return shown | ({"other": rest} if rest else {})
