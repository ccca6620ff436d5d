"""From the samples of one level to its figures."""

from __future__ import annotations

import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Final

from .config import Level
from .report import Percentiles, Run
from .sample import Sample
from .slo import Slo

_MESSAGES_KEPT: Final = 20


def percentiles(seconds: Iterable[float]) -> Percentiles:
    """The median, 90th and 99th percentile, in milliseconds, of values in seconds.

    Interpolates linearly between order statistics, as `numpy.percentile` does by default
    (Hyndman and Fan's definition 7).
    """
    values = [1000.0 * value for value in seconds]
    if not values:
        return Percentiles(None, None, None, 0)
    if len(values) == 1:
        return Percentiles(values[0], values[0], values[0], 1)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return Percentiles(cuts[49], cuts[89], cuts[98], len(values))


def summarise(
    level: Level,
    samples: Sequence[Sample],
    duration_s: float,
    *,
    complete: bool = True,
    slos: tuple[Slo, ...] = (),
    count_tokens: Callable[[str], int] | None = None,
) -> Run:
    """The figures of `level` from what was measured in `duration_s` seconds."""
    good = [sample for sample in samples if sample.error is None]
    tokens = sum(sample.tokens(count_tokens) for sample in good)
    gaps = [array("d", sample.gaps(count_tokens)) for sample in good]
    meeting = sum(map(partial(_meets, slos), good, gaps))
    return Run(
        level=level,
        requests=len(samples),
        errors=len(samples) - len(good),
        retries=sum(sample.retries for sample in samples),
        ttft=percentiles(sample.ttft for sample in good),
        itl=percentiles(chain.from_iterable(gaps)),
        e2e=percentiles(sample.ended for sample in good),
        output_tokens=tokens,
        duration_s=duration_s,
        output_tokens_per_s=_per_second(tokens, duration_s),
        requests_per_s=_per_second(len(good), duration_s),
        goodput=_per_second(meeting, duration_s),
        error_messages=_messages(samples),
        complete=complete,
    )


def _per_second(amount: int, duration_s: float) -> float:
    return amount / duration_s if duration_s > 0 else 0.0


def _meets(slos: tuple[Slo, ...], sample: Sample, gaps: array[float]) -> bool:
    """Whether one request keeps the latency limits; the mean of its gaps stands for `itl`."""
    seconds = {
        "ttft": sample.ttft,
        "itl": statistics.fmean(gaps) if gaps else 0.0,
        "e2e": sample.ended,
    }
    return all(slo.holds(1000.0 * seconds[slo.metric]) for slo in slos if slo.is_latency)


def _messages(samples: Sequence[Sample]) -> Mapping[str, int]:
    counts = Counter(sample.error for sample in samples if sample.error is not None)
    kept = dict(counts.most_common(_MESSAGES_KEPT))
    rest = counts.total() - sum(kept.values())
    return kept | ({"(other messages)": rest} if rest else {})
