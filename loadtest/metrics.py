"""The metrics of a load test: what each is of one request, and a level's figures."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from .aiperf import NAME as AIPERF
from .aiperf import aiperf_figures
from .client_clock import Disturbance
from .config import Level, LoadTest
from .report import Errors, Run, ShortOutputs
from .sample import COUNTINGS, CountTokens, Sample, Tokens, count, gaps
from .slo import Slo
from .statistics import Summary, curve, summary
from .timeline import timeline
from .until import width
from .validity import judge, tolerated_ms


class Measured:
    """A successful request with its tokens counted. Times in seconds after it was due."""

    def __init__(self, sample: Sample, tokenizer: CountTokens | None) -> None:
        self.sample = sample
        self.tokens: Tokens = count(sample, tokenizer)
        self.gaps = array("d", gaps(sample, self.tokens.of_responses))

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first response; None where there is no second one."""
        after_first = self.tokens.total - self.tokens.of_responses[0]
        if len(self.sample.arrivals) < 2 or after_first < 1:
            return None
        return (self.sample.arrivals[-1] - self.sample.arrivals[0]) / after_first


@dataclass(frozen=True, slots=True)
class Metric:
    """A duration that every successful request has one of, none or several.

    Attributes:
        name: In objectives, and with `_ms` in documents.
        meaning: Shown in `--help` pages and the documentation.
        values: The durations of one request, in seconds.
        pooled: Whether the values of all requests are thrown together, so that one request has
            several, which depend on each other.
    """

    name: str
    meaning: str
    values: Callable[[Measured], Iterable[float]]
    pooled: bool = False


def _optional(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


METRICS: Final[Mapping[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(
            "ttft",
            "from the intended send to the first text, reasoning included",
            lambda each: (each.sample.arrivals[0],),
        ),
        Metric(
            "content",
            "from the intended send to the first text that is not reasoning",
            lambda each: _optional(each.sample.content),
        ),
        Metric(
            "itl",
            "between tokens; the n tokens of one response share its gap",
            lambda each: each.gaps,
            pooled=True,
        ),
        Metric(
            "tpot",
            "per token after the first response, as a mean of each request",
            lambda each: _optional(each.tpot),
        ),
        Metric(
            "e2e",
            "from the intended send to the last text",
            lambda each: (each.sample.arrivals[-1],),
        ),
        Metric(
            "stream",
            "from the intended send to the end of the stream",
            lambda each: (each.sample.ended,),
        ),
        Metric(
            "ttft_from_send",
            "from the actual send to the first text",
            lambda each: (each.sample.arrivals[0] - each.sample.sent,),
        ),
        Metric(
            "e2e_from_send",
            "from the actual send to the last text",
            lambda each: (each.sample.arrivals[-1] - each.sample.sent,),
        ),
        Metric(
            "queue",
            "in the server before the request was scheduled, where the server says",
            lambda each: _optional(each.sample.queue),
        ),
        Metric(
            "lateness",
            "from the intended to the actual send",
            lambda each: (each.sample.sent,),
        ),
        Metric(
            "client_wait",
            "at most, from a response's arrival in this process to its reading",
            lambda each: each.sample.waits,
            pooled=True,
        ),
    )
}
"""Every metric, by name."""

DISTRIBUTIONS: Final = ("ttft", "itl", "e2e")
"""The metrics whose whole distribution a report keeps."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a level, in seconds after its start."""

    start: float
    end: float

    @property
    def length(self) -> float:
        return self.end - self.start

    def holds(self, moment: float) -> bool:
        """Whether `moment` is in the window."""
        return self.start < moment <= self.end


def summarise(
    level: Level,
    samples: Sequence[Sample],
    duration_s: float,
    *,
    test: LoadTest,
    steady: Window | None = None,
    complete: bool = True,
    disturbance: Disturbance | None = None,
    look: int = 1,
) -> Run:
    """The figures of `level` from what was measured in `duration_s` seconds.

    Latencies are of successful requests that were sent in the window `steady`, rates of what
    arrived in it (None: all of it). `look` is how often the interval of `test.until` was looked at.
    """
    window = steady or Window(-math.inf, math.inf)
    seconds = steady.length if steady else duration_s
    good = [Measured(sample, test.count_tokens) for sample in samples if sample.failure is None]
    failed = [sample for sample in samples if sample.failure is not None]
    counted = [each for each in good if window.holds(each.sample.due)]
    ended = [each for each in good if window.holds(_ended(each.sample))]
    latencies = {name: _summary(metric, counted) for name, metric in METRICS.items()}
    latencies["loop_lag"] = summary(_ms(disturbance.lags if disturbance else ()))
    return Run(
        level=level,
        requests=len(samples),
        measured=len(counted),
        errors=len(failed),
        retries=sum(sample.retries for sample in samples),
        latencies=latencies,
        judged={slo: _judged(slo, counted, failed) for slo in test.slos if slo.is_latency},
        output_tokens=sum(each.tokens.total for each in good),
        prompt_tokens=sum(each.sample.prompt_tokens or 0 for each in good) or None,
        token_counting=least_trustworthy(each.tokens.counting for each in good),
        short_outputs=_short_outputs(good),
        duration_s=duration_s,
        steady_s=(steady.start, steady.end) if steady else None,
        output_tokens_per_s=_per_second(_tokens_within(good, window), seconds),
        requests_per_s=_per_second(len(ended), seconds),
        offered_per_s=_offered(level, samples),
        goodput=_per_second(sum(_meets(test.slos, each) for each in ended), seconds),
        attainment=_attainment(test.slos, counted, failed),
        throughput=_throughput(good, duration_s),
        timeline=timeline(
            good, failed, duration_s, tolerated_ms(latencies["ttft"].at("p50") or 0.0)
        ),
        distributions_ms={name: _distribution(METRICS[name], counted) for name in DISTRIBUTIONS},
        error_kinds=_kinds(failed),
        error_messages=_messages(failed),
        complete=complete,
        until=width(test.until, _values(METRICS[test.until.metric], counted), look)
        if test.until
        else None,
        aiperf=aiperf_figures(good, len(failed)) if test.definitions == AIPERF else None,
        client=judge(latencies, disturbance),
    )


def _ms(seconds: Iterable[float]) -> Iterator[float]:
    return (1000.0 * value for value in seconds)


def _ended(sample: Sample) -> float:
    return sample.due + sample.ended


def _summary(metric: Metric, counted: Sequence[Measured], infinite: int = 0) -> Summary:
    values = _values(metric, counted)
    return summary(values, infinite=infinite, independent=not metric.pooled)


def _distribution(metric: Metric, counted: Sequence[Measured]) -> tuple[float, ...]:
    return tuple(round(value, 3) for value in curve(_values(metric, counted)))


def _values(metric: Metric, counted: Sequence[Measured]) -> Iterator[float]:
    return _ms(chain.from_iterable(metric.values(each) for each in counted))


def _judged(slo: Slo, counted: Sequence[Measured], failed: Sequence[Sample]) -> Summary:
    """The metric of `slo` with failed requests as infinitely slow, each with as many values as a
    successful one has on average."""
    metric = METRICS[slo.metric]
    values = sum(len(tuple(metric.values(each))) for each in counted)
    each = max(1, round(values / len(counted))) if counted else 1
    return _summary(metric, counted, infinite=each * len(failed))


def _tokens_within(good: Sequence[Measured], window: Window) -> int:
    """Tokens that arrived in `window`. What is counted beyond the tokens of responses, such as the
    end token, arrived with the last one."""
    tokens = 0
    for each in good:
        due, of_responses = each.sample.due, each.tokens.of_responses
        for at, brought in zip(each.sample.arrivals, of_responses, strict=True):
            if window.holds(due + at):
                tokens += brought
        if window.holds(due + each.sample.arrivals[-1]):
            tokens += each.tokens.total - sum(of_responses)
    return tokens


def _throughput(good: Sequence[Measured], duration_s: float) -> tuple[int, ...]:
    seconds = [0] * math.ceil(duration_s)
    for each in good:
        for at, brought in zip(each.sample.arrivals, each.tokens.of_responses, strict=True):
            second = int(each.sample.due + at)
            if second < len(seconds):
                seconds[second] += brought
    return tuple(seconds)


def _per_second(amount: int, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _offered(level: Level, samples: Sequence[Sample]) -> float | None:
    last = max((sample.due for sample in samples), default=0.0)
    return len(samples) / last if level.rate is not None and last > 0 else None


def _meets(slos: tuple[Slo, ...], each: Measured) -> bool:
    """Whether one request keeps the latency limits; the mean of its gaps stands for `itl`."""
    return all(
        slo.holds(1000.0 * statistics.fmean(values))
        for slo in slos
        if slo.is_latency and (values := tuple(METRICS[slo.metric].values(each)))
    )


def _attainment(
    slos: tuple[Slo, ...], counted: Sequence[Measured], failed: Sequence[Sample]
) -> float | None:
    """The share of requests that meet all latency limits; no failed one does."""
    if not counted and not failed:
        return None
    return sum(_meets(slos, each) for each in counted) / (len(counted) + len(failed))


def _short_outputs(good: Sequence[Measured]) -> ShortOutputs:
    short = [each for each in good if each.tokens.total < each.sample.asked]
    return ShortOutputs(len(short), len(short) / len(good) if good else 0.0)


_MESSAGES_KEPT: Final = 20


def _messages(failed: Sequence[Sample]) -> Mapping[str, int]:
    counts = Counter(sample.failure.message for sample in failed if sample.failure)
    kept = dict(counts.most_common(_MESSAGES_KEPT))
    rest = counts.total() - sum(kept.values())
    return kept | ({"(other messages)": rest} if rest else {})


def _kinds(failed: Sequence[Sample]) -> Mapping[str, Errors]:
    """Failures by kind, with the seconds at which the first and the last ended."""
    ends: dict[str, list[float]] = {}
    for sample in failed:
        if sample.failure:
            ends.setdefault(sample.failure.kind, []).append(_ended(sample))
    return {kind: Errors(len(each), min(each), max(each)) for kind, each in sorted(ends.items())}


def least_trustworthy(countings: Iterable[str | None]) -> str | None:
    """The last of `COUNTINGS` among `countings`."""
    return max((each for each in countings if each), key=COUNTINGS.index, default=None)
