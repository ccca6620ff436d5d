"""Service-level objectives as text: `ttft_p99<500ms`, `errors<1%`, `output_tokens_per_s>100`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..core.errors import UsageError

LATENCIES: Final = ("ttft", "itl", "e2e")
PERCENTILES: Final = (50, 90, 99)
_TO_MS: Final[Mapping[str, float]] = {"ms": 1.0, "s": 1000.0}
_RATES: Final = ("output_tokens_per_s", "requests_per_s")
_SYNTAX: Final = re.compile(
    r"\s*(?P<metric>\w+)\s*(?P<sign>[<>])\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-z%]*)\s*",
    re.ASCII,
)
_LATENCY_NAME: Final = re.compile(rf"({'|'.join(LATENCIES)})_p({'|'.join(map(str, PERCENTILES))})")


@dataclass(frozen=True, slots=True)
class Slo:
    """One objective. `str(slo)` is its canonical text, which `parse` reads back.

    `metric` is `ttft`, `itl` or `e2e` with a `percentile` (limit in milliseconds), `errors` (limit
    in percent of the requests), `output_tokens_per_s` or `requests_per_s` (limit per second).
    """

    metric: str
    percentile: int | None
    limit: float

    @property
    def is_latency(self) -> bool:
        return self.metric in LATENCIES

    def holds(self, value: float | None) -> bool:
        """Whether `value`, in the unit of `limit`, meets the objective; None does not."""
        if value is None:
            return False
        return value > self.limit if self.metric in _RATES else value < self.limit

    def __str__(self) -> str:
        number = f"{self.limit:.15f}".rstrip("0").rstrip(".")
        if self.is_latency:
            return f"{self.metric}_p{self.percentile}<{number}ms"
        return f"errors<{number}%" if self.metric == "errors" else f"{self.metric}>{number}"


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
    return Slo(latency[1], int(latency[2]), limit * _TO_MS[unit])


def _require(text: str, condition: bool, problem: str) -> None:
    if not condition:
        raise _wrong(text, problem)


def _wrong(text: str, problem: str) -> UsageError:
    latencies = ", ".join(f"{name}_p50|p90|p99" for name in LATENCIES)
    return UsageError(
        f"the objective {text!r} {problem}. Write for example 'ttft_p99<500ms', 'errors<1%' or "
        f"'output_tokens_per_s>100'; metrics are {latencies}, errors, {', '.join(_RATES)}"
    )
