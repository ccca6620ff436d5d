"""Charts of load tests over time: one level after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ..core.html import charts, heading, paragraph
from ..core.plots import Curve, Marks, plot
from ..loadtest.documents import RunDocument
from ..loadtest.observers.catalog import CHARTS, METRICS
from ..loadtest.observers.sampler import ObservedSeries
from ..loadtest.timeline import Timeline

_AXIS: Final = "seconds, one level after the other"
_MOST_CURVES: Final = 5
"""Those of the colours that marks do not have."""
_FAILED: Final = "requests failed"
_DISTURBED: Final = "the client disturbed the figures"

Points = list[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Placed:
    """A level with the second at which it begins on the common time axis."""

    start: float
    end: float
    run: RunDocument
    timeline: Timeline

    def points(self, values: Sequence[float | None]) -> Points:
        """A point in the middle of each span that has a value, and a break before the next
        level."""
        span = self.timeline.span_s
        placed: Points = [
            (min(self.start + (index + 0.5) * span, self.end), value)
            for index, value in enumerate(values)
            if value is not None
        ]
        return [*placed, (self.end, None)]

    def spans(self) -> list[tuple[float, float]]:
        """Where each span begins and ends."""
        span = self.timeline.span_s
        starts = [self.start + index * span for index in range(len(self.timeline.errors))]
        return [(start, min(start + span, self.end)) for start in starts]


def placed(runs: Sequence[RunDocument]) -> list[Placed]:
    """The levels that have a timeline, one after the other."""
    levels: list[Placed] = []
    start = 0.0
    for run in runs:
        if run["timeline"] is not None:
            end = start + run["duration_s"]
            levels.append(Placed(start, end, run, run["timeline"]))
            start = end
    return levels


def timeline_charts(runs: Sequence[RunDocument]) -> list[str]:
    """Throughput and first tokens over time, with errors and disturbed spans; nothing for reports
    that have no timeline."""
    levels = placed(runs)
    if not levels:
        return []
    marks = marks_of(levels)

    def curve(name: str, values: Callable[[Timeline], Sequence[float | None]]) -> Curve:
        return Curve(name, [p for level in levels for p in level.points(values(level.timeline))])

    return [
        heading("Over time"),
        paragraph("Dashed lines part the levels.", "soft") if len(levels) > 1 else "",
        charts(
            (
                plot(
                    [curve("tokens/s", lambda line: line.tokens_per_s)],
                    "Output tokens per second",
                    _AXIS,
                    marks=marks,
                ),
                plot(
                    [
                        curve("median", lambda line: line.ttft_p50_ms),
                        curve("longest", lambda line: line.ttft_max_ms),
                    ],
                    "Time to first token by when a request was due, ms",
                    _AXIS,
                    marks=marks,
                ),
                *_observed(levels, marks),
            )
        ),
    ]


def _observed(levels: Sequence[Placed], marks: Marks) -> list[str]:
    """A chart for each kind of metric that was sampled: of the busiest series, as many as there are
    colours."""
    points: dict[tuple[str, str], Points] = {}
    for level in levels:
        observed = level.run["observed"]
        for series in observed.series if observed else ():
            if series.name in METRICS:
                key = METRICS[series.name].chart, _name(series)
                placed = points.setdefault(key, [])
                placed += [(level.start + at, value) for at, value in series.points]
                placed.append((level.end, None))
    figures = []
    for chart in CHARTS:
        curves = [Curve(name, each) for (of, name), each in points.items() if of == chart]
        curves.sort(key=lambda curve: -max(y or 0.0 for _, y in curve.points))
        if curves:
            figures.append(plot(curves[:_MOST_CURVES], chart, _AXIS, marks=marks, named=True))
    return figures


def _name(series: ObservedSeries) -> str:
    labels = ", ".join(series.labels.values())
    return f"{series.name} {labels}".strip()


def marks_of(levels: Sequence[Placed]) -> Marks:
    """Errors, disturbed spans and the beginnings of levels."""
    shaded = [
        span
        for level in levels
        for span, disturbed in zip(level.spans(), level.timeline.disturbed, strict=False)
        if disturbed or not level.run["valid"]
    ]
    errors = [
        (start + end) / 2
        for level in levels
        for (start, end), count in zip(level.spans(), level.timeline.errors, strict=False)
        if count
    ]
    return Marks(
        (_DISTURBED, _joined(shaded)), (_FAILED, errors), [level.start for level in levels[1:]]
    )


def _joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans that touch become one."""
    joined: list[tuple[float, float]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
