"""View of `loadtest`: latencies and rates of each level, and what makes them doubtful."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..loadtest.aiperf import UNITS
from .loadtest_words import COUNTED_BY, number, width_text
from .parts import heading, show

if TYPE_CHECKING:
    from ..api.loadtest import LoadTestResult
    from ..loadtest.comparison import Change, Comparison
    from ..loadtest.report import LoadTestReport, Run
    from ..loadtest.statistics import Summary

_SHOWN: Final = ("p50", "p90", "p99")


def load_report(console: Console, result: LoadTestResult) -> None:
    """A load test, one row for each level, then what there is to know about it."""
    report = result.report
    title = heading("Load test", f"{report.model} at {report.url}")
    show(console, title, load_table(report), _client_table(report))
    for run in report.runs:
        if run.aiperf is not None:
            show(
                console, heading("AIPerf's definitions", str(run.level)), _aiperf_table(run.aiperf)
            )
    for line in _notes(report):
        console.print(Text(f" {line}", style="dim"))
    for run in report.final:
        for line in _warnings(run):
            console.print(Text(f" {run.level}: {line}", style="yellow"))
        for message, count in run.error_messages.items():
            console.print(f" [red]{count} x[/] {escape(message)}")
    _objectives(console, report)
    for problem in report.problems:
        console.print(Text.assemble((" failed: ", "bold red"), problem))
    if result.kept:
        console.print(f" [dim]saved to {escape(str(result.kept))}[/]\n", soft_wrap=True)


def load_table(report: LoadTestReport) -> Table:
    """Latencies in ms at p50, p90 and p99, and rates."""
    table = _table("load", "requests", "errors", "TTFT ms", "ITL ms", "E2E ms", "tokens/s", "req/s")
    for run in report.runs:
        table.add_row(
            _load(run),
            str(run.requests),
            Text(str(run.errors), style="bold red" if run.errors else ""),
            *(_percentiles(run.latencies[name]) for name in ("ttft", "itl", "e2e")),
            f"{run.output_tokens_per_s:,.1f}",
            f"{run.requests_per_s:.2f}",
        )
    table.caption = "latencies at p50/p90/p99; ~ marks percentiles of too few requests"
    return table


def _client_table(report: LoadTestReport) -> Table:
    """What the client itself added, in ms at p50, p90 and p99."""
    table = _table("load", "sent late ms", "loop late ms", "waited ms", "client CPU", "machine")
    for run in report.runs:
        client = run.client
        table.add_row(
            _load(run),
            *(
                _percentiles(run.latencies[name])
                for name in ("lateness", "loop_lag", "client_wait")
            ),
            "-" if client.cpu is None else f"{client.cpu:.2f} cores",
            "-" if client.machine is None else f"{client.machine:.0%} busy",
        )
    table.caption = "the client: how late it sent and ran, how long responses can have waited in it"
    return table


_AIPERF_COLUMNS: Final = ("avg", "p50", "p99")


def _aiperf_table(figures: Mapping[str, Mapping[str, float]]) -> Table:
    table = _table("metric", *_AIPERF_COLUMNS)
    for name, values in figures.items():
        cells = (f"{values[each]:,.2f}" if each in values else "-" for each in _AIPERF_COLUMNS)
        table.add_row(f"{name}, {UNITS[name]}", *cells)
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    table.caption_justify = "left"
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _load(run: Run) -> str:
    rate = run.level.rate
    return f"{rate:.4g}/s" if rate is not None else str(run.level.concurrency)


def _percentiles(values: Summary) -> str:
    return "/".join(_value(values, name) for name in _SHOWN)


def _value(values: Summary, statistic: str) -> str:
    value = values.at(statistic)
    if value is None:
        return "-"
    return ("" if values.carries(statistic) else "~") + number(value)


def _notes(report: LoadTestReport) -> Iterator[str]:
    if report.token_counting:
        yield COUNTED_BY[report.token_counting]
    for run in report.runs:
        if run.until:
            yield f"{run.level}: {width_text(run.until)}"
        if run.steady_s:
            yield f"{run.level}: latencies of the {run.measured} requests of the steady state"
        if run.client.scaling:
            yield f"{run.level}: {run.client.scaling}"


def _warnings(run: Run) -> Iterator[str]:
    yield from run.observed.problems if run.observed else ()
    if not run.client.valid:
        yield "INVALID, the client disturbed the figures"
        yield from run.client.reasons
    if run.short_outputs.count:
        yield (
            f"{run.short_outputs.share:.0%} of the outputs are shorter than asked for; "
            "--ignore-eos makes them as long, where the model can"
        )
    for kind, errors in run.error_kinds.items():
        yield (
            f"{errors.count} failed, {kind}: the first after {errors.first_s:.1f} s, the last "
            f"after {errors.last_s:.1f} s"
        )


def _objectives(console: Console, report: LoadTestReport) -> None:
    if not report.slos:
        return
    best = f"{report.best.level.load:.4g}" if report.best else "-"
    met = "[green]met[/]" if report.met else "[bold red]missed[/]"
    wanted = ", ".join(map(str, report.slos))
    console.print(f" objectives {wanted}: {met}, highest load {best}")
    if search := report.search:
        sure = "" if search.confidence is None else f", confidence {search.confidence:.0%}"
        above = "" if search.lowest_missed is None else f"; {search.lowest_missed:.4g}/s misses"
        console.print(f" found in {len(search.steps)} steps{sure}{above}")
        return
    for run in report.runs:
        for slo in report.slos:
            judged = run.judgement(slo)
            value = "failures decide" if judged["value"] is None else f"{judged['value']:.4g}"
            survivors = judged.get("survivors")
            beside = "" if survivors is None else f" ({survivors:.4g} without failed requests)"
            doubt = "" if judged.get("carried", True) else ", too few requests to be sure"
            mark = "met" if judged["met"] else "missed"
            text = f" {run.level}: {slo}: {mark}, {value}{beside}{doubt}"
            console.print(Text(text, style="dim" if judged["met"] else "red"))


def comparison(console: Console, result: Comparison) -> None:
    """Two load tests, one row for each figure."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("load", "figure", "before", "after", "change", ""):
        table.add_column(name, justify="left" if name in ("load", "figure", "") else "right")
    for change in result.changes:
        ratio = f"{change.after / change.before - 1:+.1%}" if change.before else "-"
        table.add_row(
            change.load,
            change.figure,
            f"{change.before:,.1f}",
            f"{change.after:,.1f}",
            ratio,
            _verdict(change),
        )
    show(console, heading("Load tests", f"{result.before} and {result.after}"), table)
    for load in result.missing:
        console.print(Text(f" {load}: only one of the reports has it", style="dim"))


def _verdict(change: Change) -> Text:
    if change.significant is None:
        return Text("too few requests to say", style="dim")
    if not change.significant:
        return Text("noise", style="dim")
    return Text("worse", style="bold red") if change.worse else Text("better", style="green")
