"""What is recorded of a calibration: in reports, in bundles and in results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

ENOUGH_EXPERT_TOKENS: Final = 32
"""Tokens of the least used expert from which on ranges and smoothing are not chance."""

ENOUGH_TOKENS: Final = 8192
"""Tokens that are enough for a model without experts: 16 sequences."""


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
        thin: Why the text is too little for this model; None where it is enough.
    """

    source: str
    sequences: int
    tokens: int
    experts_without_tokens: int
    expert_tokens: dict[str, list[int]]
    smoothing: list[SmoothingRecord]
    thin: str | None


def thinness(tokens: int, expert_tokens: Iterable[list[int]]) -> str | None:
    """Why `tokens` of calibration text, of which the experts of each layer saw `expert_tokens`, are
    too few; None where they are enough."""
    counts = [count for layer in expert_tokens for count in layer]
    if few := sum(count < ENOUGH_EXPERT_TOKENS for count in counts):
        return (
            f"{few:,} of {len(counts):,} experts received fewer than {ENOUGH_EXPERT_TOKENS} tokens "
            f"({counts.count(0):,} of them none); use more text with --calibration"
        )
    if not counts and tokens < ENOUGH_TOKENS:
        return (
            f"{tokens:,} tokens are few (at least {ENOUGH_TOKENS:,} are recommended); use more "
            "text with --calibration"
        )
    return None
