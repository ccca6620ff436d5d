"""`report/quality.json`: what quantization costs, in weights and, if measured, in answers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..model.checkpoint import Checkpoint
from ..model.recipe import Recipe
from .fidelity import Comparison, Fidelity

SCHEMA: Final = 1
WORST: Final = 5
"""Tensors named as the ones with the largest error."""


def format_entry(
    key: str,
    recipe: Recipe,
    written_bytes: int,
    errors: Mapping[str, float],
    calibration: Mapping[str, Any] | None,
    fidelity: Fidelity | None,
) -> dict[str, Any]:
    """One quantized format: its size, its weights' error, and its answers' fidelity if measured.

    `errors` are relative Frobenius errors by source tensor; that of a layer is the root mean square
    of its tensors' (which have one size each in the experts of a layer).
    """
    layers: dict[int, list[float]] = {}
    for name, error in errors.items():
        if match := re.match(r"backbone\.layers\.(\d+)\.", name):
            layers.setdefault(int(match[1]), []).append(error)
    worst = sorted(errors, key=lambda name: -errors[name])[:WORST]
    return {
        "key": key,
        "format": recipe.summary,
        "bytes": written_bytes,
        "weight_error": {
            "mean": _rms(errors.values()) if errors else None,
            "layers": {str(layer): _rms(row) for layer, row in sorted(layers.items())},
            "worst": {name: errors[name] for name in worst},
            "tensors": dict(errors),
        },
        "calibration": calibration,
        "fidelity": None
        if fidelity is None
        else {
            "perplexity": fidelity.perplexity,
            "kl": fidelity.kl,
            "top1": fidelity.top1,
            "layer_errors": fidelity.layer_errors,
        },
    }


def report(
    checkpoint: Checkpoint,
    formats: Sequence[Mapping[str, Any]],
    compared: Comparison | None,
    heldout: Mapping[str, Any] | None,
    missing: str | None,
) -> dict[str, Any]:
    """The whole report. `missing` says which part was not measured, and how to measure it."""
    return {
        "schema": SCHEMA,
        "model": checkpoint.model.name,
        "pattern": checkpoint.model.pattern,
        "source": {
            "bytes": checkpoint.bytes,
            "perplexity": compared.perplexity if compared else None,
        },
        "heldout": heldout,
        "formats": list(formats),
        "missing": missing,
        "method": (
            "Weight errors are relative Frobenius errors of stored weights, after smoothing scales "
            "were folded in. Perplexity, divergence and agreement come from running source and "
            "quantized weights in float32, layer by layer, with FP8 activations and KV cache "
            "rounded where the format has them; an engine's own rounding comes on top."
        ),
    }


def _rms(values: Any) -> float:
    squares = [value * value for value in values]
    return math.sqrt(sum(squares) / len(squares))
