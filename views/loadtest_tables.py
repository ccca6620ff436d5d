"""Load tests for other programs: CSV for spreadsheets, and Prometheus' text format."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from ..loadtest.documents import LoadTestDocument, RunDocument
from ..loadtest.metrics import METRICS
from ..loadtest.statistics import PERCENTILES, STATISTICS
from .loadtest_words import by_load

_LATENCIES: Final = (*METRICS, "loop_lag")
_FIGURES: Final = (
    "requests", "measured", "errors", "retries", "duration_s", "output_tokens", "prompt_tokens",
    "output_tokens_per_s", "requests_per_s", "offered_per_s", "goodput", "attainment", "valid",
    "complete",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would take for a formula."""


def csv_text(document: LoadTestDocument) -> str:
    """One row for each level, with a header; a value that is not known is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [f"{name}_{statistic}_ms" for name in _LATENCIES for statistic in STATISTICS]
    aiperf = sorted(
        {
            (name, statistic)
            for run in document["runs"]
            for name, figures in (run["aiperf"] or {}).items()
            for statistic in figures
        }
    )
    columns += ["errors_by_kind", *(f"aiperf_{name}_{statistic}" for name, statistic in aiperf)]
    writer.writerow(("model", "url", "started_at", "concurrency", "rate", *_FIGURES, *columns))
    about = [_cell(document[key]) for key in ("model", "url", "started_at")]
    for run in document["runs"]:
        figures: Mapping[str, Any] = dict(run)
        kinds = "; ".join(f"{kind} {each['count']}" for kind, each in run["error_kinds"].items())
        writer.writerow(
            [
                *about,
                *(_cell(figures.get(key)) for key in ("concurrency", "rate", *_FIGURES)),
                *(
                    _cell(figures[f"{name}_ms"][statistic])
                    for name in _LATENCIES
                    for statistic in STATISTICS
                ),
                _cell(kinds),
                *(
                    _cell((run["aiperf"] or {}).get(name, {}).get(statistic))
                    for name, statistic in aiperf
                ),
            ]
        )
    return file.getvalue()


def _cell(value: object) -> str:
    """`value` as text. An apostrophe keeps spreadsheets from running foreign text as a formula."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text


Rows = Iterable[tuple[str, Mapping[str, str], float]]
"""Lines of one metric: what is appended to its name, its labels, its value."""

_GAUGES: Final = {
    "requests": ("requests", "Requests that ended, the failed ones included."),
    "errors": ("failed_requests", "Requests that failed."),
    "output_tokens_per_s": (
        "output_tokens_per_second",
        "Output tokens per second of the steady state.",
    ),
    "requests_per_s": ("requests_per_second", "Successful requests per second."),
    "offered_per_s": ("offered_requests_per_second", "Requests per second that were due."),
    "goodput": ("goodput_requests_per_second", "Requests per second that meet the objectives."),
    "attainment": ("attainment_ratio", "Share of requests that meet the objectives."),
    "valid": ("valid", "1 where the client did not disturb the figures, else 0."),
    "complete": ("complete", "1 where the level was run to its end, else 0."),
}


def prometheus_text(document: LoadTestDocument) -> str:
    """The last run of each load, in Prometheus' text format, in seconds."""
    levels = [(_labels(document, run), run) for run in by_load(document["runs"])]
    return "".join(
        (
            *_gauges(levels),
            *(_latency(name, levels) for name in _LATENCIES),
            _aiperf(levels),
            _objectives(document),
        )
    )


def _labels(document: LoadTestDocument, run: RunDocument) -> dict[str, str]:
    kind = "rate" if "rate" in run else "concurrency"
    load = run["rate"] if "rate" in run else run.get("concurrency", 0)
    return {"model": document["model"], "kind": kind, "load": f"{load:.6g}"}


Levels = list[tuple[dict[str, str], RunDocument]]


def _gauges(levels: Levels) -> Iterator[str]:
    for key, (name, meaning) in _GAUGES.items():
        values = [(labels, dict(run).get(key)) for labels, run in levels]
        yield _metric(
            name,
            "gauge",
            meaning,
            [
                ("", labels, float(value))
                for labels, value in values
                if isinstance(value, (int, float))
            ],
        )


def _latency(name: str, levels: Levels) -> str:
    meaning = METRICS[name].meaning if name in METRICS else "delay of the client's event loop"
    rows: list[tuple[str, Mapping[str, str], float]] = []
    for labels, run in levels:
        summary = dict(run)[f"{name}_ms"]
        assert isinstance(summary, dict)
        if not summary["samples"]:
            continue
        rows += [
            ("", {**labels, "quantile": f"{share:g}"}, summary[percentile] / 1000)
            for percentile, share in PERCENTILES.items()
            if summary[percentile] is not None
        ]
        mean, count = summary["mean"] or 0.0, summary["samples"]
        rows += [("_sum", labels, mean * count / 1000), ("_count", labels, float(count))]
    text = f"{meaning[:1].upper()}{meaning[1:]}."
    return _metric(f"{name}_seconds", "summary", text, rows)


def _aiperf(levels: Levels) -> str:
    rows = [
        ("", {**labels, "metric": name, "statistic": statistic}, value)
        for labels, run in levels
        for name, figures in (run["aiperf"] or {}).items()
        for statistic, value in figures.items()
    ]
    return _metric("aiperf", "gauge", "The metrics as AIPerf defines them, in its units.", rows)


def _objectives(document: LoadTestDocument) -> str:
    labels = {"model": document["model"]}
    met = document["slo"]["met"]
    rows = [] if met is None else [("", labels, float(met))]
    return _metric("objectives_met", "gauge", "1 where some load meets all objectives.", rows)


def _metric(name: str, kind: str, meaning: str, rows: Rows) -> str:
    """One metric; nothing where it has no value."""
    full = f"nemo_deploy_loadtest_{name}"
    lines = [
        f"{full}{suffix}{{{_labels_text(labels)}}} {_value(value)}\n"
        for suffix, labels, value in rows
    ]
    if not lines:
        return ""
    return f"# HELP {full} {meaning}\n# TYPE {full} {kind}\n" + "".join(lines)


def _labels_text(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _value(value: float) -> str:
    if math.isinf(value):
        return "+Inf"
    return f"{value:.9g}"
