"""When the requests of an open-loop test are due."""

from __future__ import annotations

import random
from collections.abc import Iterator


def poisson(rate: float, count: int, seed: int) -> Iterator[float]:
    """Seconds after the start at which each of `count` requests is due.

    The gaps are independent and exponential with mean `1 / rate`, as of many users who know nothing
    of each other. The same seed gives the same times.
    """
    generator = random.Random(seed)  # noqa: S311 (arrival times, not secrets)
    due = 0.0
    for _ in range(count):
        due += generator.expovariate(rate)
        yield due
