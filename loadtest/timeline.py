"""A level over time, in spans of equal length."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .metrics import Measured
    from .sample import Sample

MOST_SPANS: Final = 120
"""Spans of a level; they are whole seconds, and as long as this number requires."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """One value for each span of a level, from its start on.

    Attributes:
        span_s: Seconds that a span lasts.
        tokens_per_s: Output tokens of successful requests that arrived in it, per second.
        ttft_p50_ms: Median time to first token of the successful requests that were due in it; null
            where there is none.
        ttft_max_ms: The longest of them.
        errors: Requests that failed in it.
        disturbed: Whether the client disturbed it: a request that was due in it was sent late, or a
            response that arrived in it waited in the client, for longer than a valid run may show.
    """

    span_s: int
    tokens_per_s: tuple[float, ...]
    ttft_p50_ms: tuple[float | None, ...]
    ttft_max_ms: tuple[float | None, ...]
    errors: tuple[int, ...]
    disturbed: tuple[bool, ...]


def timeline(
    good: Sequence[Measured], failed: Sequence[Sample], duration_s: float, tolerated_ms: float
) -> Timeline:
    """The spans of a level that lasted `duration_s`, from its successful and `failed` requests; the
    client may add `tolerated_ms`."""
    span_s = max(1, math.ceil(duration_s / MOST_SPANS))
    count = max(1, math.ceil(duration_s / span_s))

    def span(moment: float) -> int:
        return min(count - 1, max(0, int(moment / span_s)))

    tokens, errors, disturbed = [0] * count, [0] * count, [False] * count
    first: list[list[float]] = [[] for _ in range(count)]
    for each in good:
        sample = each.sample
        first[span(sample.due)].append(1000 * sample.arrivals[0])
        for at, brought in zip(sample.arrivals, each.tokens.of_responses, strict=True):
            if sample.due + at <= duration_s:  # later ones are of a level that was cut off
                tokens[span(sample.due + at)] += brought
        disturbed[span(sample.due)] |= 1000 * sample.sent > tolerated_ms
        for at, wait in zip(sample.arrivals, sample.waits, strict=False):
            disturbed[span(sample.due + at)] |= 1000 * wait > tolerated_ms
    for sample in failed:
        errors[span(sample.due + sample.ended)] += 1
    lengths = [span_s] * (count - 1) + [max(duration_s - span_s * (count - 1), 1e-9)]
    return Timeline(
        span_s,
        tuple(round(n / length, 3) for n, length in zip(tokens, lengths, strict=True)),
        tuple(round(statistics.median(each), 3) if each else None for each in first),
        tuple(round(max(each), 3) if each else None for each in first),
        tuple(errors),
        tuple(disturbed),
    )
