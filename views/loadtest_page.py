"""A load test as a self-contained HTML page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Final, Literal

from ..core.html import bullets, charts, heading, page, paragraph, table
from ..core.plots import Curve, plot, thinned
from ..loadtest.aiperf import UNITS
from ..loadtest.documents import LoadTestDocument, ObjectiveDocument, RunDocument, SummaryDocument
from .loadtest_timeline import timeline_charts
from .loadtest_words import COUNTED_BY, by_load, invalid_text, load_text, short_ms, width_text

_LATENCIES: Final[Sequence[tuple[Literal["ttft_ms", "itl_ms", "e2e_ms"], str, str]]] = (
    ("ttft_ms", "ttft", "Time to first token"),
    ("itl_ms", "itl", "Time between tokens"),
    ("e2e_ms", "e2e", "Time to last token"),
)
_CURVES: Final[Sequence[Literal["p50", "p90", "p99"]]] = ("p50", "p90", "p99")
_UNIT: Final = re.compile(r"(ms|%)$")
_FAILURES: Final = "failures decide"
_MOST_LABELS: Final = 8
_MOST_DISTRIBUTIONS: Final = 8


def load_test_page(document: LoadTestDocument, made_on: date) -> str:
    """The whole page. Everything in `document` may come from elsewhere and is escaped."""
    parts = [paragraph(_summary(document))]
    parts += [paragraph(f"Failed: {problem}", "note") for problem in document["problems"]]
    parts += _objectives(document)
    runs = document["runs"]
    if runs:
        parts += _against_throughput(runs)
        parts += _distributions(runs)
        parts += timeline_charts(runs)
        parts += [heading("Levels"), _levels(runs), paragraph(_LEVELS_NOTE, "soft")]
        widths = [f"{load_text(run)}: {width_text(run['until'])}" for run in runs if run["until"]]
        parts += [bullets(widths, "soft")] if widths else []
        parts += [heading("The client"), _clients(runs), paragraph(_CLIENT_NOTE, "soft")]
        parts += _errors(runs)
        parts += _aiperf(runs)
        parts += _observed(runs)
    else:
        parts.append(paragraph("No level was measured."))
    parts += [heading("How it was measured"), bullets(_how(document))]
    return page(f"Load test of {document['model']}", parts, made_on)


def _summary(document: LoadTestDocument) -> str:
    began = document["started_at"]
    when = f" It began at {began.replace('T', ' ').replace('Z', ' UTC')}." if began else ""
    return (
        f"{document['model']} at {document['url']}, {len(document['runs'])} levels in "
        f"{document['duration_s']:,.0f} s.{when}"
    )


def _objectives(document: LoadTestDocument) -> Iterator[str]:
    slo = document["slo"]
    if not slo["objectives"]:
        return
    yield heading("Objectives")
    unit = "concurrency" if any("concurrency" in run for run in document["runs"]) else "req/s"
    best = "no level meets them" if slo["best"] is None else f"up to {slo['best']:.4g} {unit}"
    yield paragraph(f"{', '.join(slo['objectives'])}: {'met' if slo['met'] else 'missed'}, {best}.")
    search = slo["search"]
    if search is not None:
        sure = "" if search.confidence is None else f" The confidence is {search.confidence:.0%}."
        above = (
            ""
            if search.lowest_missed is None
            else f" The lowest rate that misses them is {search.lowest_missed:.4g} req/s."
        )
        yield paragraph(f"A search tried {len(search.steps)} rates.{above}{sure}")
    rows = [
        (
            load_text(run),
            *(_judged(result) for result in level["results"]),
            f"{run['goodput']:.2f}",
        )
        for run, level in zip(document["runs"], slo["levels"], strict=False)
    ]
    header = ("load", *slo["objectives"], "goodput, requests/s")
    yield table(header, [row for row in rows if len(row) == len(header)], "cells")


def _judged(result: ObjectiveDocument) -> str:
    value, unit = result["value"], _UNIT.search(result["objective"])
    amount = f"{value:.4g}{f' {unit[0]}' if unit else ''}" if value is not None else _FAILURES
    doubt = "" if result.get("carried", True) else " (too few requests to be sure)"
    return f"{'met' if result['met'] else 'missed'}: {amount}{doubt}"


def _against_throughput(runs: Sequence[RunDocument]) -> list[str]:
    levels = sorted(by_load(runs), key=lambda run: run["output_tokens_per_s"])
    labels = [load_text(run, short=True) for run in levels] if len(levels) <= _MOST_LABELS else []
    figures = [
        plot(
            [
                Curve(
                    statistic,
                    [(run["output_tokens_per_s"], run[key][statistic]) for run in levels],
                    labels if statistic == "p99" else (),
                )
                for statistic in _CURVES
            ],
            f"{title}, ms",
            "output tokens per second",
            dots=True,
        )
        for key, _, title in _LATENCIES
    ]
    return [
        heading("Latency against throughput"),
        paragraph("Each point is a level, labelled with its load.", "soft") if labels else "",
        charts(figures),
    ]


def _distributions(runs: Sequence[RunDocument]) -> Iterator[str]:
    levels = thinned([run for run in by_load(runs) if run["distributions_ms"]], _MOST_DISTRIBUTIONS)
    if not levels:
        return
    yield heading("Distributions")
    yield paragraph(
        "The share of values that are at most so long, of successful requests of the steady state. "
        "The time axis is logarithmic.",
        "soft",
    )
    yield charts(
        plot(
            [
                Curve(
                    load_text(run),
                    [
                        (value, percent / 100)
                        for percent, value in enumerate(run["distributions_ms"].get(name, []))
                    ],
                )
                for run in levels
            ],
            f"{title}: share of values",
            "ms",
            logarithmic=True,
            percent=True,
        )
        for _, name, title in _LATENCIES
    )


_LEVELS_NOTE: Final = (
    "Latencies at p50 / p90 / p99; ~ marks percentiles that the number of requests cannot carry. "
    "They count from the moment at which a request was to be sent, and leave failed requests out."
)


def _levels(runs: Sequence[RunDocument]) -> str:
    header = (
        "load", "requests", "first token, ms", "between tokens, ms", "last token, ms", "tokens/s",
        "requests/s",
    )  # fmt: skip
    rows = [
        (
            load_text(run),
            _requests(run),
            *(_percentiles(run[key]) for key, _, _ in _LATENCIES),
            f"{run['output_tokens_per_s']:,.1f}",
            f"{run['requests_per_s']:.2f}",
        )
        for run in runs
    ]
    return table(header, rows)


def _requests(run: RunDocument) -> str:
    failed = f", {run['errors']:,} failed" if run["errors"] else ""
    return f"{run['requests']:,}{failed}{'' if run['complete'] else ', incomplete'}"


def _percentiles(summary: SummaryDocument) -> str:
    return " / ".join(short_ms(summary, name) for name in _CURVES)


_CLIENT_NOTE: Final = (
    "What the client itself added, in ms at p50 / p90 / p99: how late it sent requests, how late "
    "its event loop was, and how long at most responses waited in it."
)


def _clients(runs: Sequence[RunDocument]) -> str:
    header = ("load", "sent late", "loop late", "waited", "client CPU", "machine", "figures")
    rows = []
    for run in runs:
        cpu, busy = run["client"]["cpu_cores"], run["client"]["machine_busy"]
        rows.append(
            (
                load_text(run),
                _percentiles(run["lateness_ms"]),
                _percentiles(run["loop_lag_ms"]),
                _percentiles(run["client_wait_ms"]),
                "-" if cpu is None else f"{cpu:.2f} cores",
                "-" if busy is None else f"{busy:.0%} busy",
                "valid" if run["valid"] else "invalid",
            )
        )
    return table(header, rows)


def _errors(runs: Sequence[RunDocument]) -> Iterator[str]:
    rows = [
        (
            load_text(run),
            kind,
            f"{errors['count']:,}",
            f"{errors['first_s']:.1f} s",
            f"{errors['last_s']:.1f} s",
        )
        for run in runs
        for kind, errors in run["error_kinds"].items()
    ]
    messages = [
        f"{load_text(run)}: {count:,} x {message}"
        for run in runs
        for message, count in run["error_messages"].items()
    ]
    disturbed = [invalid_text(run) for run in runs if not run["valid"]]
    if rows or messages:
        yield heading("Failed requests")
        yield table(("load", "kind", "requests", "first after", "last after"), rows)
        yield bullets(messages)
    if disturbed:
        yield heading("Invalid levels")
        yield bullets(disturbed)


_AIPERF_COLUMNS: Final = ("avg", "min", "max", "p50", "p90", "p99")


def _aiperf(runs: Sequence[RunDocument]) -> Iterator[str]:
    header = ("metric", *_AIPERF_COLUMNS)
    for run in runs:
        if figures := run["aiperf"]:
            yield heading(f"AIPerf's definitions, {load_text(run)}")
            rows = (
                (
                    f"{name}, {UNITS.get(name, '')}",
                    *(
                        f"{row[each]:,.{0 if row[each] >= 1000 else 1}f}" if each in row else "-"
                        for each in _AIPERF_COLUMNS
                    ),
                )
                for name, row in figures.items()
            )
            yield table(header, rows)


def _observed(runs: Sequence[RunDocument]) -> Iterator[str]:
    levels = [(load_text(run), run["observed"]) for run in runs if run["observed"]]
    rows = [
        (
            load,
            f"{series.name} {', '.join(series.labels.values())}".strip(),
            *(f"{value:,.4g}" for value in (series.mean, series.min, series.max)),
            series.unit,
        )
        for load, observed in levels
        for series in observed.series
    ]
    if rows:
        yield heading("Metrics of the server and its GPUs")
        yield table(("load", "metric", "mean", "min", "max", "unit"), rows)
    yield from (
        paragraph(f"{load}: {problem}", "note")
        for load, observed in levels
        for problem in observed.problems
    )


def _how(document: LoadTestDocument) -> Iterator[str]:
    settings = document["settings"]
    if settings is not None:
        yield f"Sent: {settings.sent}, over the protocol {settings.protocol}."
        if any("rate" in run for run in document["runs"]):
            yield f"Arrivals of the open loop: {settings.arrivals}."
        yield (
            f"{settings.warmup} requests of warm-up are not counted. A request fails after "
            f"{settings.timeout_s:g} s."
        )
        if settings.ignore_eos:
            yield "Outputs were asked to go on to their limit (--ignore-eos)."
    yield f"At most {document['max_tokens']} output tokens per request, or what the prompts say."
    if document["seed"] is not None:
        yield f"Seed {document['seed']} repeats the prompts and arrival times."
    if document["token_counting"] in COUNTED_BY:
        yield f"Tokens: {COUNTED_BY[document['token_counting'] or '']}."
    yield (
        "Time to first token ends with the first text, reasoning included; time between tokens is "
        "pooled over all requests, and the tokens of one response share its gap."
    )
    yield f"A level fails when more than {document['max_errors']:g} % of its requests fail."
    if made_by := document.get("made_by"):
        yield f"Measured with {made_by}."
