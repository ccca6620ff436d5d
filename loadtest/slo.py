"""Service-level objectives as text: `ttft_p99<500ms`, `errors<1%`, `output_tokens_per_s>100`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..core.errors import UsageError
from .statistics import PERCENTILES

LATENCIES: Final = ("ttft", "content", "itl", "tpot", "e2e", "stream")
"""The metrics of `metrics.METRICS` that an objective may limit."""

STATISTICS: Final = (*PERCENTILES, "mean")
_TO_MS: Final[Mapping[str, float]] = {"ms": 1.0, "s": 1000.0}
_RATES: Final = ("output_tokens_per_s", "requests_per_s")
_SYNTAX: Final = re.compile(
    r"\s*(?P<metric>[\w.]+)\s*(?P<sign>[<>])\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-z%]*)\s*",
    re.ASCII,
)
_LATENCY_NAME: Final = re.compile(
    rf"({'|'.join(LATENCIES)})_({'|'.join(map(re.escape, STATISTICS))})"
)


@dataclass(frozen=True, slots=True)
class Slo:
    """One objective. `str(slo)` is its canonical text, which `parse` reads back.

    `metric` is one of `LATENCIES` with a `statistic` (limit in milliseconds), `errors` (limit
    in percent of the requests), `output_tokens_per_s` or `requests_per_s` (limit per second).
    """

    metric: str
    statistic: str | None
    limit: float

    @property
    def is_latency(self) -> bool:
        return self.metric in LATENCIES

    @property
    def tolerated(self) -> float:
        """The share of values that may exceed the limit, for an objective on a percentile."""
        return 1 - PERCENTILES.get(self.statistic or "", 0.5)

    def holds(self, value: float | None) -> bool:
        """Whether `value`, in the unit of `limit`, meets the objective; None does not."""
        if value is None:
            return False
        return value > self.limit if self.metric in _RATES else value < self.limit

    def __str__(self) -> str:
        number = f"{self.limit:.15f}".rstrip("0").rstrip(".")
        if self.is_latency:
            return f"{self.metric}_{self.statistic}<{number}ms"
        return f"errors<{number}%" if self.metric == "errors" else f"{self.metric}>{number}"


def parse_all(text: str) -> tuple[Slo, ...]:
    """Read objectives that are separated by commas. Raises like `parse`."""
    return tuple(parse(part) for part in text.split(","))


def parse(text: str) -> Slo:
    """Read one objective.

    Raises `UsageError` that says what is wrong with `text` and shows one that is right.
    """
    match = _SYNTAX.fullmatch(text)
    if match is None:
        raise _wrong(text, "is not of the form METRIC<LIMIT or METRIC>LIMIT")
    metric, sign, unit = match["metric"], match["sign"], match["unit"]
    limit = float(match["number"])
    if metric in _RATES:
        _require(text, sign == ">", "sets an upper limit to a throughput; write it with >")
        _require(text, not unit, f"has the unit {unit!r}; a throughput has none")
        return Slo(metric, None, limit)
    _require(text, sign == "<", f"sets a lower limit to {metric}; write it with <")
    _require(text, limit > 0, "can never be met: the limit must be above zero")
    if metric == "errors":
        _require(text, unit == "%", "needs a percentage")
        return Slo(metric, None, limit)
    latency = _LATENCY_NAME.fullmatch(metric)
    if latency is None:
        raise _wrong(text, f"has the unknown metric {metric!r}")
    _require(text, unit in _TO_MS, "needs a unit, ms or s")
    return Slo(latency[1], latency[2], limit * _TO_MS[unit])


def _require(text: str, condition: bool, problem: str) -> None:
    if not condition:
        raise _wrong(text, problem)


def _wrong(text: str, problem: str) -> UsageError:
    return UsageError(
        f"the objective {text!r} {problem}. Write for example 'ttft_p99<500ms', 'errors<1%' or "
        f"'output_tokens_per_s>100'; metrics are METRIC_STATISTIC with {', '.join(LATENCIES)} and "
        f"{', '.join(STATISTICS)}, errors, {', '.join(_RATES)}"
    )
