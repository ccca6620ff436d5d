"""Efficiencies fitted to a load test of one's own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from .efficiency import Efficiency
from .speed import Speed

PRIOR: Final = 1e-4
"""Weight, beside the levels' squared relative errors, of both scales being the same."""

FINEST: Final = 1e-4
"""Logarithmic step at which the search for the scales ends."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One level of a load test: sequences at once, the mean milliseconds between a sequence's
    tokens, and those to its first."""

    concurrency: int
    itl_ms: float
    ttft_ms: float


def calibrated(levels: Iterable[Measured], speed: Speed) -> Efficiency:
    """The efficiencies of `speed`, fitted to `levels`.

    Prefill is scaled by the lowest level, where requests hardly wait for each other. Decoding then
    has two unknowns, the scale of what a batch needs and that of what a step takes in any case:
    least squares of relative errors, where one level alone leaves both the same. Raises ValueError
    without levels and for times that are not above 0.
    """
    ordered = sorted(levels, key=lambda level: level.concurrency)
    if not ordered:
        raise ValueError("no level with a concurrency and without errors")
    if any(not level.itl_ms > 0 or not level.ttft_ms > 0 for level in ordered):
        raise ValueError("times must be above 0")
    efficiency = speed.efficiency
    faster = speed.prefill_s() * 1e3 / ordered[0].ttft_ms
    efficiency = replace(
        efficiency,
        prefill=efficiency.prefill * faster,
        prefill_experts=efficiency.prefill_experts * faster,
    )

    def ratios(work: float, fixed: float) -> list[float]:
        """Estimated over measured gap between tokens, level by level."""
        scaled = speed.with_efficiency(replace(efficiency, work=work, fixed=fixed))
        return [scaled.point(level.concurrency).itl_ms / level.itl_ms for level in ordered]

    def cost(place: tuple[float, float]) -> float:
        errors = [ratio - 1 for ratio in ratios(math.exp(place[0]), math.exp(place[1]))]
        return sum(error * error for error in errors) + PRIOR * (place[0] - place[1]) ** 2

    common = -math.log(median(ratios(1.0, 1.0)))
    best, step = (common, common), 0.5
    while step > FINEST:
        moves = [(step, step), (-step, -step)]
        if len(ordered) > 1:
            moves += [(step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)]
        nearer = min(((best[0] + x, best[1] + y) for x, y in moves), key=cost)
        best, step = (nearer, step) if cost(nearer) < cost(best) else (best, step / 2)
    work, fixed = math.exp(best[0]), math.exp(best[1])
    off = max(abs(ratio - 1) for ratio in ratios(work, fixed))
    return replace(efficiency, work=work, fixed=fixed, off=off)
