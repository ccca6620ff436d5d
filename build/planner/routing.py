"""How many experts a batch of tokens touches, and how unevenly they lie on GPUs."""

from __future__ import annotations

import math
from functools import lru_cache


@lru_cache(maxsize=64)
def choices(experts: int, top_k: int, skew: float) -> tuple[float, ...]:
    """Each expert's probability to be among the `top_k` of a token, most wanted first: in
    proportion to rank^-skew, and at most 1. They sum to `top_k`."""
    weights = [rank**-skew for rank in range(1, experts + 1)]
    certain = 0  # of the most wanted experts, whose share would be above 1
    while True:
        scale = (top_k - certain) / sum(weights[certain:])
        if certain == top_k or weights[certain] * scale <= 1:
            return (1.0,) * certain + tuple(weight * scale for weight in weights[certain:])
        certain += 1


@lru_cache(maxsize=4096)
def distinct(experts: int, top_k: int, tokens: float, skew: float) -> float:
    """Expected number of distinct experts that `tokens` independent tokens choose: the sum of
    1 - (1 - p)^tokens over all experts."""
    return sum(1.0 - math.pow(1 - chance, tokens) for chance in choices(experts, top_k, skew))


def fullest(mean: float, most: float, gpus: int) -> float:
    """Of `gpus` GPUs that hit `mean` experts each on average, what the one with most hits: the
    expected maximum of so many Poisson counts, sqrt(2 ln(gpus)) deviations above; at most `most`.
    """
    if gpus == 1:
        return mean
    deviation = math.sqrt(mean * (1 - 1 / gpus))
    return min(most, mean + deviation * math.sqrt(2 * math.log(gpus)))


def uneven(gpus: int) -> float:
    """Tokens of the fullest of `gpus` GPUs over their mean when a long prompt spreads over experts:
    gpus^0.27, as measured for 2, 4 and 8 with Nano's experts."""
    return float(gpus**0.27)
