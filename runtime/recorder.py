"""What the served model counts and measures, under the names of `contract.METRICS`.

Recording costs about a microsecond, so that it can be done for every token. The totals are read
from time to time by what exports them.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import Final

from .contract import (
    INTER_TOKEN_TIME,
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    QUEUE_TIME,
    REQUESTS,
    TIME_TO_FIRST_TOKEN,
    Metric,
    Series,
    series,
)
from .generation import Failure

OUTCOMES: Final = {
    Failure.INVALID: "refused",
    Failure.UNAVAILABLE: "overloaded",
    Failure.CANCELLED: "cancelled",
    Failure.DEADLINE: "deadline",
    Failure.INTERNAL: "error",
}
"""The outcome of a request that has no answer. That of an answer is its finish reason."""


class Recorder:
    """Totals of one served model. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._prompt_tokens = self._output_tokens = 0
        self._queue = _Histogram(QUEUE_TIME)
        self._first_token = _Histogram(TIME_TO_FIRST_TOKEN)
        self._inter_token = _Histogram(INTER_TOKEN_TIME)

    def ended(self, end: str | Failure) -> None:
        """Count a request by the finish reason of its answer, or by why it has none."""
        outcome = OUTCOMES[end] if isinstance(end, Failure) else end
        with self._lock:
            self._requests[outcome] += 1

    def prompt(self, tokens: int) -> None:
        """Count the tokens of a prompt."""
        with self._lock:
            self._prompt_tokens += tokens

    def queued(self, seconds: float) -> None:
        """Record how long a request waited."""
        with self._lock:
            self._queue.add(seconds)

    def first_tokens(self, tokens: int, seconds: float) -> None:
        """Record the first step of an answer, and how long after the arrival it came."""
        with self._lock:
            self._output_tokens += tokens
            self._first_token.add(seconds)

    def next_tokens(self, tokens: int, seconds: float) -> None:
        """Record another step of an answer, and how long after the one before it came."""
        with self._lock:
            self._output_tokens += tokens
            self._inter_token.add(seconds)

    def totals(self) -> dict[Series, float]:
        """Every series of the counters and histograms, since the start."""
        with self._lock:
            outcomes = {s: float(self._requests[s.value]) for s in series(REQUESTS)}
            return {
                **outcomes,
                Series(PROMPT_TOKENS.name): self._prompt_tokens,
                Series(OUTPUT_TOKENS.name): self._output_tokens,
                **self._queue.totals(),
                **self._first_token.totals(),
                **self._inter_token.totals(),
            }


class _Histogram:
    def __init__(self, metric: Metric) -> None:
        self._series = series(metric)
        self._bounds = metric.buckets
        self._counts = [0] * len(metric.buckets)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def totals(self) -> dict[Series, float]:
        """Prometheus counts in each bucket what is at most its bound."""
        counts = list(accumulate(self._counts))
        return dict(zip(self._series, (*counts, self._sum, counts[-1]), strict=True))
