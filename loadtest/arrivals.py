"""When the requests of an open-loop test are due."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from ..core.errors import UsageError

_SYNTAX: Final = re.compile(r"poisson|constant|gamma:(\d+(?:\.\d+)?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How the gaps between arrivals are distributed; their mean follows from the rate.

    `shape` is that of a gamma distribution: 1 is a Poisson process, as of many users who know
    nothing of each other; less is burstier, more is more regular; infinite is a constant gap.
    """

    shape: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `poisson`, `constant` or `gamma:SHAPE`. Raises `UsageError`."""
        match = _SYNTAX.fullmatch(text)
        shape = float(match[1]) if match and match[1] else 1.0
        if match is None or not shape:
            raise UsageError(
                f"--arrivals {text!r}: must be poisson, constant or gamma:SHAPE with a shape above "
                "0, for example gamma:0.5 (below 1 is burstier than poisson)"
            )
        return cls(math.inf if text == "constant" else shape)

    def __str__(self) -> str:
        if math.isinf(self.shape):
            return "constant"
        return "poisson" if self.shape == 1 else f"gamma:{self.shape:g}"

    def schedule(self, rate: float, count: int, seed: int) -> Iterator[float]:
        """Seconds after the start at which each of `count` requests is due, `rate` a second.

        The same seed gives the same times.
        """
        generator = random.Random(seed)  # noqa: S311 (arrival times, not secrets)
        due = 0.0
        for _ in range(count):
            due += self._gap(generator) / rate
            yield due

    def _gap(self, generator: random.Random) -> float:
        """A gap with the mean 1."""
        if math.isinf(self.shape):
            return 1.0
        return generator.gammavariate(self.shape, 1 / self.shape)


POISSON: Final = Arrivals()
