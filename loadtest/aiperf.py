"""The figures of the same samples as AIPerf defines them.

Read in ai-dynamo/aiperf @db4f639: `aiperf/metrics/types/`, `aiperf/metrics/metric_dicts.py` and
`aiperf/parsers/inference_result_parser.py`. Its clock starts with the actual send, all successful
requests after the warm-up count, whether or not the load is steady, and failed ones are left out.
It counts tokens with a tokenizer; here they are counted as everywhere else in the report.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from .statistics import quantile

if TYPE_CHECKING:
    from .metrics import Measured

NAME: Final = "aiperf"

Figures = Mapping[str, float]
"""Each statistic of one metric; of those that describe a whole level, `avg` alone."""

_PERCENTILES: Final = (1, 5, 10, 25, 50, 75, 90, 95, 99)


def _first(each: Measured) -> float:
    return each.sample.arrivals[0] - each.sample.sent


def _second(each: Measured) -> list[float]:
    arrivals = each.sample.arrivals
    return [arrivals[1] - arrivals[0]] if len(arrivals) > 1 else []


def _latency(each: Measured) -> float:
    return each.sample.arrivals[-1] - each.sample.sent


def _inter_token(each: Measured) -> list[float]:
    tokens = each.tokens.total
    return [(_latency(each) - _first(each)) / (tokens - 1)] if tokens > 1 else []


def _chunk_gaps(each: Measured) -> list[float]:
    """None where two chunks came at the same time: AIPerf leaves such a request out."""
    gaps = [after - before for before, after in pairwise(each.sample.arrivals)]
    return gaps if all(gap > 0 for gap in gaps) else []


_MS: Final = 1000.0

_OF_REQUESTS: Final[Mapping[str, tuple[str, float, Callable[[Measured], Iterable[float]]]]] = {
    "time_to_first_token": ("ms", _MS, lambda each: (_first(each),)),
    "time_to_second_token": ("ms", _MS, _second),
    "request_latency": ("ms", _MS, lambda each: (_latency(each),)),
    "inter_token_latency": ("ms", _MS, _inter_token),
    "inter_chunk_latency": ("ms", _MS, _chunk_gaps),
    "output_token_throughput_per_user": (
        "tokens/s/user", 1.0, lambda each: [1 / gap for gap in _inter_token(each) if gap > 0],
    ),
    "output_sequence_length": ("tokens", 1.0, lambda each: (float(each.tokens.total),)),
}  # fmt: skip
"""The unit of each metric that every request has, what its values are multiplied by, and they."""

UNITS: Final[Mapping[str, str]] = {
    **{name: unit for name, (unit, _, _) in _OF_REQUESTS.items()},
    "output_token_throughput": "tokens/s",
    "request_throughput": "requests/s",
    "request_count": "requests",
    "error_request_count": "requests",
    "benchmark_duration": "s",
}
"""The unit of each metric, by AIPerf's name of it."""


def aiperf_figures(good: Sequence[Measured], failed: int) -> dict[str, Figures]:
    """AIPerf's metrics of a level, by name; those without a value are missing."""
    figures: dict[str, Figures] = {}
    for name, (_, factor, values) in _OF_REQUESTS.items():
        ordered = sorted(factor * value for each in good for value in values(each))
        if ordered:
            figures[name] = _statistics(ordered)
    if good:
        start = min(each.sample.due + each.sample.sent for each in good)
        duration = max(each.sample.due + each.sample.arrivals[-1] for each in good) - start
        tokens = sum(each.tokens.total for each in good)
        if duration > 0:
            figures["output_token_throughput"] = {"avg": tokens / duration}
            figures["request_throughput"] = {"avg": len(good) / duration}
            figures["benchmark_duration"] = {"avg": duration}
    figures["request_count"] = {"avg": float(len(good))}
    figures["error_request_count"] = {"avg": float(failed)}
    return figures


def _statistics(ordered: list[float]) -> Figures:
    return {
        "avg": statistics.fmean(ordered),
        "min": ordered[0],
        "max": ordered[-1],
        **{f"p{percent}": quantile(ordered, percent / 100) for percent in _PERCENTILES},
        "std": statistics.pstdev(ordered),
        "count": float(len(ordered)),
    }
