"""Views of `quantize`, `build`, `verify`, `serve`, `warmup` and `doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..api.trust import trusted_note
from ..runtime import contract
from .parts import BAD, GOOD, amount, concession_text, engine_rows, facts, heading, show

if TYPE_CHECKING:
    from ..api.build_result import BuildResult, DryRunResult
    from ..api.doctor import DoctorResult
    from ..api.quantize import QuantizeResult
    from ..api.serve import ServeResult
    from ..api.verify import VerifyResult
    from ..api.warmup import WarmupResult
    from ..quantize.calibration_record import SmoothingRecord
    from ..quantize.quality import QualityReport


def quantization(console: Console, result: QuantizeResult) -> None:
    """Where a quantized checkpoint is, how small it became, what it cost, and what reads it."""
    ratio = result.source_bytes / max(1, result.written_bytes)
    size = f"{amount(result.source_bytes)} to {amount(result.written_bytes)} ({ratio:.2f}x)"
    rows: list[tuple[str, RenderableType]] = [
        ("format", result.format),
        ("tensors", f"{result.tensors:,} quantized"),
        ("size", size),
    ]
    if result.kept_shards:
        rows.append(("resumed", f"{result.kept_shards} shards were already finished"))
    if used := result.calibration:
        text = f"{used.sequences} sequences, {used.tokens:,} tokens; {used.source}"
        rows.append(("calibration", text))
        if used.thin:
            rows.append(("", Text(f"thin: {used.thin}", style="yellow")))
        if used.smoothing:
            rows.append(("smoothing", _smoothing(used.smoothing)))
    if result.quality:
        rows.append(("quality", _quality(result.quality)))
        rows.append(("", f"{result.out}/report/quality.html"))
    rows += [("warning", Text(warning, style="yellow")) for warning in result.warnings]
    for reader in result.readers:
        rows.append(("read by", reader.engine))
        if reader.serve:
            rows.append(("", reader.serve.format(path=result.out)))
        if reader.rests_on:
            rows.append(("", Text(f"not run by nemo-deploy; from {reader.rests_on}", style="dim")))
    show(console, heading("Quantized", str(result.out)), facts(rows))


def _smoothing(rows: Sequence[SmoothingRecord]) -> str:
    before = sum(row.output_error_plain for row in rows) / len(rows)
    after = sum(row.output_error_smoothed for row in rows) / len(rows)
    return f"output error of {len(rows)} expert layers {before:.2%} to {after:.2%} on average"


def _quality(report: QualityReport) -> str:
    (row,) = report.formats
    weights = f"weight error {row.weight_error.mean:.2%}"
    measured = row.fidelity
    if measured is None:
        return f"{weights}; outputs were not compared"
    return (
        f"{weights}, KL divergence {measured.kl:.2e} nats per token, same top token "
        f"{measured.top1:.1%}, perplexity {report.source.perplexity:.4g} to "
        f"{measured.perplexity:.4g}"
    )


def dry_run(console: Console, result: DryRunResult) -> None:
    """What a build would do, and why."""
    table = Table.grid(padding=(0, 2))
    for step in result.stages:
        style = "cyan" if step.why else "dim"
        table.add_row(Text(step.action, style=style), step.stage, Text(step.what))
        if step.why:
            table.add_row("", "", Text(step.why, style="dim"))
    for warning in result.warnings:
        table.add_row(Text("warning", style="yellow"), "", Text(warning))
    for concession in result.concessions:
        table.add_row("", "given up", Text(concession_text(concession)))
    for name, text in engine_rows(result.engines, result.engine, result.engine_hint):
        table.add_row("", name, text)
    show(console, heading("Would build", str(result.bundle)), table)


_BEFORE_DEPLOYING: Final = {
    "claim": (("copy    ", "nemo-deploy push"),),
    "image": (("image   ", "nemo-deploy image --push"),),
}
"""Commands that bring a bundle to the cluster, by the way of its weights."""


def built(console: Console, result: BuildResult) -> None:
    """What a build made, and what to do next."""
    where = str(result.bundle)
    if not result.made:
        line = f"\n [green]✓[/] {escape(where)} is up to date; nothing was done\n"
        console.print(line, soft_wrap=True)
        return
    rows: list[tuple[str, RenderableType]] = [
        ("made", ", ".join(result.made)),
        ("kept", ", ".join(result.kept) or "nothing"),
        ("bundle", f"{result.files} files, {amount(result.bytes)}"),
        ("backend", result.backend),
        *[("given up", concession_text(concession)) for concession in result.concessions],
    ]
    rows += engine_rows(result.engines, result.engine, result.engine_hint)
    rows += [("warning", Text(warning, style="yellow")) for warning in result.warnings]
    if result.calibration:
        rows.append(("calibration", result.calibration))
    if result.thin:
        rows.append(("", Text(f"thin: {result.thin}", style="yellow")))
    rows += [("needs", Text(need, style="yellow")) for need in result.needs]
    before = _BEFORE_DEPLOYING.get(result.weights, ())
    after = Text.assemble(
        ("check   ", "dim"), f"nemo-deploy verify {where}\n",
        ("try     ", "dim"), f"nemo-deploy serve {where}\n",
        *[part for word, command in before for part in ((word, "dim"), f"{command} {where}\n")],
        ("deploy  ", "dim"), f"nemo-deploy deploy {where}",
    )  # fmt: skip
    show(console, heading("Built", where), facts(rows), after)


def warmed(console: Console, result: WarmupResult) -> None:
    """Whether a node gives the recorded outputs, and where it keeps what it compiled."""
    golden = result.golden
    rows: list[tuple[str, RenderableType]] = [
        ("executor", f"{result.executor}, started in {result.start_s:.1f} s"),
    ]
    if golden["action"] == "checked":
        rows.append(("outputs", f"checked: {golden['detail']}"))
    else:
        rows.append(("outputs", Text(f"not checked: {golden['detail']}", style="yellow")))
    rows += _distance(golden["comparison"])
    if baseline := golden["baseline"]:
        rows.append(("baseline", baseline["detail"]))
        rows += _distance(baseline["comparison"])
    rows += [("wrong", Text(fault, style="bold red")) for fault in golden["faults"]]
    if result.trusted_code:
        rows.append(("code", trusted_note(result.trusted_code)))
    rows += [("caches", path) for path in result.caches.values()]
    show(console, heading("Ready" if result.ok else "Not ready", str(result.bundle)), facts(rows))


def _distance(compared: dict[str, Any] | None) -> list[tuple[str, RenderableType]]:
    """How far outputs are from recorded ones, as a row; none without a comparison."""
    if compared is None:
        return []
    gain = "" if compared["gain"] is None else f", gain {compared['gain']:+.2f}"
    return [
        ("", f"divergence {compared['divergence']:.1e} nats per token, same top token "
             f"{compared['agreement']:.1%}{gain}")
    ]  # fmt: skip


def serving(console: Console, result: ServeResult) -> None:
    """The addresses of a server, and how to try it."""
    request = {contract.TEXT_INPUT: "Hello", contract.STREAMING: True, contract.MAX_TOKENS: 16}
    body = json.dumps({tensor.name: value for tensor, value in request.items()})
    url = f"{result.http}/v2/models/{result.model}/generate_stream"
    rows: list[tuple[str, RenderableType]] = [
        ("gRPC", result.grpc),
        ("HTTP", result.http),
        *([("OpenAI", result.openai)] if result.openai else []),
        ("try", f"curl -N {url} -d '{body}'"),
        ("load", f"nemo-deploy loadtest grpc://{result.grpc}"),
        ("stop", "Ctrl-C"),
    ]
    if result.trusted_code:
        rows.insert(0, ("code", trusted_note(result.trusted_code)))
    show(console, heading("Serving", result.model), facts(rows))


def checks(console: Console, result: VerifyResult) -> None:
    """Every check with its result; the heading says "Verified" only if all passed."""
    rows = [(check.name, check.ok, check.detail) for check in result.checks]
    title = "Verified" if result.ok else f"{len(result.failed)} of {len(rows)} checks failed"
    show(console, heading(title, str(result.bundle)), _ticks(rows))


def diagnosis(console: Console, result: DoctorResult) -> None:
    """What this machine can do."""
    machine = f"Python {result.python}, {result.cores} cores, {amount(result.memory_bytes)} memory"
    installed = ", ".join(f"{name} {version or '-'}" for name, version in result.packages.items())
    rows = [(row.name, row.ok, row.detail) for row in result.abilities]
    show(console, heading("This machine", machine), _ticks(rows), Text(installed, style="dim"))


def _ticks(rows: Iterable[tuple[str, bool, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    for name, ok, detail in rows:
        table.add_row(GOOD if ok else BAD, Text(name), Text(detail))
    return table
