"""What is recorded of a calibration: in reports, in bundles and in results."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SmoothingRecord:
    """Smoothing of the experts of one layer.

    Attributes:
        layer: Its index.
        hidden_strength: Strength chosen for the hidden state, 0 for none.
        expert_strength_mean: Mean of the strengths chosen for the single experts.
        output_error_plain: Relative error of the layer's output with plain rounding.
        output_error_smoothed: The same with smoothing.
    """

    layer: int
    hidden_strength: float
    expert_strength_mean: float
    output_error_plain: float
    output_error_smoothed: float


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """The text of a calibration, and what it reached.

    Attributes:
        source: Where the text came from.
        sequences: Number of texts.
        tokens: Number of their tokens.
        experts_without_tokens: Routed experts that saw none of them.
        expert_tokens: Tokens that each routed expert saw, by layer.
        smoothing: One row for each smoothed layer.
    """

    source: str
    sequences: int
    tokens: int
    experts_without_tokens: int
    expert_tokens: dict[str, list[int]]
    smoothing: list[SmoothingRecord]
