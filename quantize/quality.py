"""The quality report: what quantization costs, in weights and, where it was run, in outputs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..core.result import Result
from ..model.checkpoint import Checkpoint
from ..model.recipe import Recipe
from .calibration_record import CalibrationRecord

if TYPE_CHECKING:
    from .fidelity import Comparison, Fidelity

WORST: Final = 5
"""Tensors named as the ones with the largest error."""


@dataclass(frozen=True, slots=True)
class WeightError:
    """Relative Frobenius errors of the stored weights.

    Attributes:
        mean: Root mean square over all quantized tensors; None where none was quantized.
        layers: Root mean square over the tensors of a layer, by its index.
        worst: The tensors with the largest errors.
        tensors: Every quantized tensor.
    """

    mean: float | None
    layers: dict[str, float]
    worst: dict[str, float]
    tensors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FormatFidelity:
    """What a format changes in the model's outputs.

    Attributes:
        perplexity: On the held-out text.
        kl: Mean divergence from the source's distribution, in nats per token.
        top1: Share of tokens whose likeliest successor is the same.
        layer_errors: Relative error of the hidden state after each layer.
    """

    perplexity: float
    kl: float
    top1: float
    layer_errors: list[float]


@dataclass(frozen=True, slots=True)
class FormatQuality:
    """One quantized format; `fidelity` is None where the model was not run."""

    key: str
    format: str
    bytes: int
    weight_error: WeightError
    calibration: CalibrationRecord | None
    fidelity: FormatFidelity | None


@dataclass(frozen=True, slots=True)
class SourceQuality:
    """The checkpoint that formats are compared with."""

    bytes: int
    perplexity: float | None


@dataclass(frozen=True, slots=True)
class Heldout:
    """The text on which models were run."""

    source: str
    sequences: int
    tokens: int


@dataclass(frozen=True, slots=True)
class QualityReport(Result):
    """What quantization costs.

    Attributes:
        model: The model's name.
        pattern: Its layers, one letter each.
        source: The checkpoint before quantization.
        heldout: The text that was used; None where no model was run.
        formats: One entry for each format.
        missing: Which part is missing, and how to get it.
        method: How the figures were measured.
    """

    SCHEMA: ClassVar[int] = 1

    model: str
    pattern: str
    source: SourceQuality
    heldout: Heldout | None
    formats: tuple[FormatQuality, ...]
    missing: str | None
    method: str

    def brief(self) -> dict[str, Any]:
        """The document without the errors of the single tensors, of which there are thousands."""
        document = self.to_json()
        for row in document["formats"]:
            del row["weight_error"]["tensors"]
        return document


def format_entry(
    key: str,
    recipe: Recipe,
    written_bytes: int,
    errors: Mapping[str, float],
    calibration: CalibrationRecord | None,
    fidelity: Fidelity | None,
) -> FormatQuality:
    """One quantized format: its size, the error of its weights, and its outputs where it was run.

    `errors` are relative Frobenius errors by source tensor; that of a layer is the root mean square
    of its tensors' (which have one size each in the experts of a layer).
    """
    layers: dict[int, list[float]] = {}
    for name, error in errors.items():
        if match := re.match(r"backbone\.layers\.(\d+)\.", name):
            layers.setdefault(int(match[1]), []).append(error)
    worst = sorted(errors, key=lambda name: -errors[name])[:WORST]
    return FormatQuality(
        key=key,
        format=recipe.summary,
        bytes=written_bytes,
        weight_error=WeightError(
            mean=_rms(errors.values()) if errors else None,
            layers={str(layer): _rms(row) for layer, row in sorted(layers.items())},
            worst={name: errors[name] for name in worst},
            tensors=dict(errors),
        ),
        calibration=calibration,
        fidelity=FormatFidelity(
            fidelity.perplexity, fidelity.kl, fidelity.top1, fidelity.layer_errors
        )
        if fidelity
        else None,
    )


def report(
    checkpoint: Checkpoint,
    formats: Sequence[FormatQuality],
    compared: Comparison | None,
    heldout: Heldout | None,
    missing: str | None,
) -> QualityReport:
    """The whole report. `missing` says which part was not made, and how to get it."""
    return QualityReport(
        model=checkpoint.model.name,
        pattern=checkpoint.model.pattern,
        source=SourceQuality(checkpoint.bytes, compared.perplexity if compared else None),
        heldout=heldout,
        formats=tuple(formats),
        missing=missing,
        method=(
            "Weight errors are relative Frobenius errors of stored weights, after smoothing scales "
            "were folded in. Perplexity, divergence and agreement come from running source and "
            "quantized weights in float32, layer by layer, with FP8 activations and KV cache "
            "rounded where the format has them; an engine's own rounding comes on top."
        ),
    )


def _rms(values: Iterable[float]) -> float:
    squares = [value * value for value in values]
    return math.sqrt(sum(squares) / len(squares))
