"""The figures of a level while it is held: cheap, in bounded memory, from requests that ended."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Final

from .config import Progress
from .metrics import Measured

_GROWTH: Final = math.log(1.02)
"""Percentiles are right to 1 %: each bucket ends 2 % above the one before."""
_LEAST_MS: Final = 0.001
TEXT_EVERY_S: Final = 0.25
"""Seconds between two texts: what is shown must not keep the client from its work."""


class Sketch:
    """Counts of durations in buckets that grow by 2 %."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._total = 0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[int(math.log(max(1000 * seconds, _LEAST_MS) / _LEAST_MS) / _GROWTH)] += 1
        self._total += 1

    def percentile_ms(self, share: float) -> float | None:
        """The duration that a `share` of those counted does not exceed; None where there is
        none."""
        wanted = share * self._total
        for bucket in sorted(self._counts):
            wanted -= self._counts[bucket]
            if wanted <= 0:
                return _LEAST_MS * math.exp((bucket + 0.5) * _GROWTH)
        return None


class LiveFigures:
    """What is known of one level so far."""

    def __init__(self) -> None:
        self._read = self._tokens = 0
        self._sketches = {name: Sketch() for name in ("ttft", "itl", "e2e", "lateness")}
        self._started: float | None = None
        self._texted = -math.inf
        self._text = ""

    def text(self, progress: Progress) -> str:
        """Two lines, of all samples that `progress` has; the same ones for a quarter of a
        second."""
        self._add(progress)
        now = time.perf_counter()
        if now - self._texted >= TEXT_EVERY_S:
            self._texted, self._text = now, self._new_text(progress, now)
        return self._text

    def _add(self, progress: Progress) -> None:
        """Take the samples that have ended since the last call."""
        samples = progress.samples
        for index in range(self._read, len(samples)):
            sample = samples[index]
            if self._started is None:
                self._started = time.perf_counter() - sample.due - sample.ended
            self._sketches["lateness"].add(sample.sent)
            if sample.failure is None:
                measured = Measured(sample, None)
                self._tokens += measured.tokens.total
                self._sketches["ttft"].add(sample.arrivals[0])
                self._sketches["e2e"].add(sample.arrivals[-1])
                for gap in measured.gaps:
                    self._sketches["itl"].add(gap)
        self._read = len(samples)

    def _new_text(self, progress: Progress, now: float) -> str:
        elapsed = now - self._started if self._started is not None else 0.0
        rate = self._tokens / elapsed if elapsed > 0 else 0.0
        late = self._sketches["lateness"].percentile_ms(0.99)
        return (
            f"{rate:,.0f} tokens/s, {progress.in_flight()} in flight, {progress.errors} failed, "
            f"sent late {_ms(late)} ms (p99)\n"
            f"p50/p99 ms: first token {self._pair('ttft')}, between tokens {self._pair('itl')}, "
            f"last token {self._pair('e2e')}"
        )

    def _pair(self, name: str) -> str:
        sketch = self._sketches[name]
        return f"{_ms(sketch.percentile_ms(0.5))}/{_ms(sketch.percentile_ms(0.99))}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 10 else f"{value:.0f}"
