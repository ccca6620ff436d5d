"""Samples sources once a second in threads of their own, and sums up what they said of a level."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Self

from .catalog import METRICS
from .exposition import Key

if TYPE_CHECKING:  # it brings httpx, which is slow to import
    from .sources import Source

EVERY_S: Final = 1.0
_PATIENCE_S: Final = 2.0
MOST_POINTS: Final = 120
"""Points of a series in a report; more are averaged."""

Point = tuple[float, float]
"""Seconds, and a value."""


@dataclass(frozen=True, slots=True)
class ObservedSeries:
    """One time series during a level. Values of a counter are rates, per second.

    Attributes:
        source: Where it comes from: an address, or `nvidia-smi`.
        name: The metric.
        labels: What it is of.
        unit: Of the values.
        points: Seconds after the level's start, and the value.
    """

    source: str
    name: str
    labels: Mapping[str, str]
    unit: str
    mean: float
    min: float
    max: float
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """What was sampled beside a level. `problems` says what did not answer."""

    series: tuple[ObservedSeries, ...]
    problems: tuple[str, ...]


class Sampler:
    """Samples `sources` from the start of the block to its end; a context manager."""

    def __init__(self, sources: Sequence[Source], every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._values: dict[str, dict[Key, list[Point]]] = {each.name: {} for each in sources}
        self._failures: dict[str, list[tuple[float, str]]] = {each.name: [] for each in sources}
        self._threads = [
            threading.Thread(target=self._watch, args=(each,), daemon=True) for each in sources
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(_PATIENCE_S)  # one that waits for a slow page ends with the process

    def between(self, start: float, end: float) -> Observed | None:
        """What was sampled from `start` to `end`, as `time.perf_counter` gives them; None where
        nothing was."""
        series: list[ObservedSeries] = []
        problems: list[str] = []
        with self._lock:
            for source, values in self._values.items():
                for key, points in values.items():
                    inside = [(at - start, value) for at, value in points if start <= at <= end]
                    series += _summed_up(source, key, inside)
                failed = [each for each in self._failures[source] if start <= each[0] <= end]
                if failed:
                    at, why = failed[0]
                    problems.append(
                        f"{source}: did not answer {len(failed)} times, first after "
                        f"{at - start:.0f} s: {why}"
                    )
        return Observed(tuple(series), tuple(problems)) if series or problems else None

    def _watch(self, source: Source) -> None:
        due = time.perf_counter()
        while not self._ended.wait(max(0.0, due - time.perf_counter())):
            due = max(due + self._every_s, time.perf_counter())
            values, failure = _asked(source)
            if source.optional and not values and not self._values[source.name]:
                break
            now = time.perf_counter()
            with self._lock:
                if failure is not None:
                    self._failures[source.name].append((now, failure))
                for key, value in values.items():
                    self._values[source.name].setdefault(key, []).append((now, value))
        source.close()


def _asked(source: Source) -> tuple[dict[Key, float], str | None]:
    """The present values, or why there are none."""
    try:
        return source.sample(), None
    except OSError as error:
        return {}, str(error)


def _summed_up(source: str, key: Key, points: Sequence[Point]) -> list[ObservedSeries]:
    name, labels = key
    known = METRICS[name]
    if known.counter:
        points = [
            (later, (after - before) / (later - earlier))
            for (earlier, before), (later, after) in pairwise(points)
            if after >= before and later > earlier  # a counter that falls was reset
        ]
    if not points:
        return []
    values = [value for _, value in points]
    unit = f"{known.unit}/s" if known.counter else known.unit
    mean = sum(values) / len(values)
    shown = tuple((round(at, 2), round(value, 4)) for at, value in _averaged(points))
    return [ObservedSeries(source, name, dict(labels), unit, mean, min(values), max(values), shown)]


def _averaged(points: Sequence[Point]) -> list[Point]:
    """At most `MOST_POINTS`."""
    size = -(-len(points) // MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[0][0], sum(value for _, value in group) / len(group)) for group in groups]
