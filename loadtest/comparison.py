"""What changed between two reports, and whether it is more than noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any, ClassVar, Final

from ..core.errors import BadInputError
from ..core.result import Result
from .saved_report import read_report
from .statistics import CONFIDENCE

_LATENCIES: Final = ("ttft_ms", "tpot_ms", "e2e_ms")
_PERCENTILES: Final = ("p50", "p90", "p99")
_THROUGHPUT: Final = "output_tokens_per_s"
_ERRORS: Final = "errors_percent"
_LEAST_SECONDS: Final = 5
"""Whole seconds of throughput that its variation is estimated from."""

_SAME: Final = ("max_tokens", "token_counting")
"""What must be equal in two reports that are compared."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure at one load, before and after.

    Attributes:
        load: The load, for example `concurrency 8`.
        figure: What is compared, for example `ttft_ms p90`.
        before, after: Its values.
        significant: Whether the change is more than noise, with 95 % confidence for all changes of
            a comparison together; None where a report has too few requests to say.
        worse: Whether the change is for the worse.
    """

    load: str
    figure: str
    before: float
    after: float
    significant: bool | None
    worse: bool


@dataclass(frozen=True, slots=True)
class Comparison(Result):
    """Two load tests, compared at the loads that both have.

    Attributes:
        before, after: The files.
        changes: Every figure that both have.
        missing: Loads that only one of them has.
    """

    SCHEMA: ClassVar[int] = 1

    before: Path
    after: Path
    changes: tuple[Change, ...]
    missing: tuple[str, ...]

    @property
    def worse(self) -> tuple[Change, ...]:
        """The changes for the worse that are more than noise."""
        return tuple(change for change in self.changes if change.significant and change.worse)

    @property
    def ok(self) -> bool:
        """False where a command should exit with 5: something became worse."""
        return not self.worse


@dataclass(frozen=True, slots=True)
class _Estimate:
    """A value, and its standard error where it is known."""

    value: float
    error: float | None


def compare(before: Path, after: Path) -> Comparison:
    """Compare two reports of `loadtest --json`.

    Raises `BadInputError` for files that are no such reports, that have no load in common, or whose
    tests differ in what was asked for or how tokens were counted.
    """
    first, second = _read(before), _read(after)
    for key in _SAME:
        if first.get(key) != second.get(key):
            raise BadInputError(
                f"{after}: cannot be compared with {before}: `{key}` is {second.get(key)!r} here "
                f"and {first.get(key)!r} there"
            )
    try:
        runs, others = _by_load(first), _by_load(second)
        pairs = [
            (load, figure, first_estimate, second_estimate)
            for load in runs
            if load in others
            for figure, first_estimate, second_estimate in _figures(runs[load], others[load])
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"{after}: cannot be compared with {before}: {error!r}") from error
    if not pairs:
        raise BadInputError(f"{after}: has no load in common with {before}")
    # Bonferroni: of many comparisons, one in twenty would seem significant by chance.
    limit = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * len(pairs)))
    return Comparison(
        before,
        after,
        tuple(_change(load, figure, a, b, limit) for load, figure, a, b in pairs),
        tuple(sorted(runs.keys() ^ others.keys())),
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return read_report(path)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error


def _by_load(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The runs by load; of several with the same load, the last."""
    return {_load(run): run for run in document["runs"]}


def _load(run: Mapping[str, Any]) -> str:
    if "concurrency" in run:
        return f"concurrency {run['concurrency']}"
    return f"{run['rate']:g} req/s"


def _figures(
    run: Mapping[str, Any], other: Mapping[str, Any]
) -> Iterator[tuple[str, _Estimate, _Estimate]]:
    for metric in _LATENCIES:
        for percentile in _PERCENTILES:
            a, b = _latency(run, metric, percentile), _latency(other, metric, percentile)
            if a and b:
                yield f"{metric} {percentile}", a, b
    yield _THROUGHPUT, _throughput(run), _throughput(other)
    yield _ERRORS, _errors(run), _errors(other)


def _latency(run: Mapping[str, Any], metric: str, percentile: str) -> _Estimate | None:
    summary = run.get(metric) or {}
    value = summary.get(percentile)
    if value is None:
        return None
    ends = summary.get("intervals", {}).get(percentile)
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    return _Estimate(float(value), (ends[1] - ends[0]) / (2 * reach) if ends else None)


def _throughput(run: Mapping[str, Any]) -> _Estimate:
    """With the standard error of the mean of its whole seconds, in the steady state."""
    start, end = run.get("steady_s") or (0.0, run["duration_s"])
    seconds = run.get("throughput", [])[math.ceil(start) : math.floor(end)]
    known = len(seconds) >= _LEAST_SECONDS
    error = stdev(seconds) / math.sqrt(len(seconds)) if known and fmean(seconds) else None
    return _Estimate(float(run[_THROUGHPUT]), error)


def _errors(run: Mapping[str, Any]) -> _Estimate:
    """With the standard error of a share; one more of each keeps it above zero (Agresti-Coull)."""
    requests, errors = int(run["requests"]), int(run["errors"])
    if not requests:
        return _Estimate(0.0, None)
    share = (errors + 2) / (requests + 4)
    error = 100 * math.sqrt(share * (1 - share) / (requests + 4))
    return _Estimate(100 * errors / requests, error)


def _change(load: str, figure: str, a: _Estimate, b: _Estimate, limit: float) -> Change:
    difference = b.value - a.value
    significant = None
    if a.error is not None and b.error is not None:
        significant = abs(difference) > limit * math.hypot(a.error, b.error)
    worse = difference < 0 if figure == _THROUGHPUT else difference > 0
    return Change(load, figure, a.value, b.value, significant, worse)
