"""Views of `quantize`, `build`, `verify`, `loadtest` and `doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..api.serve import Serving
from ..api.trust import trusted_note
from ..core.checks import Check
from ..runtime import contract
from .parts import BAD, GOOD, amount, facts, heading, show


def quantization(console: Console, record: dict[str, Any]) -> None:
    """Where a quantized checkpoint lies, how small it became, what it cost, and what reads it."""
    ratio = record["source_bytes"] / max(1, record["written_bytes"])
    size = f"{amount(record['source_bytes'])} to {amount(record['written_bytes'])} ({ratio:.2f}x)"
    kept = record["kept_shards"]
    rows: list[tuple[str, RenderableType]] = [
        ("format", record["format"]),
        ("tensors", f"{record['tensors']:,} quantized"),
        ("size", size),
    ]
    if kept:
        rows.append(("resumed", f"{kept} shards were finished before"))
    if "calibration" in record:
        used = record["calibration"]
        text = f"{used['sequences']} sequences, {used['tokens']:,} tokens; {used['source']}"
        rows.append(("calibration", text))
        if used["experts_without_tokens"]:
            rows.append(("", f"{used['experts_without_tokens']} experts saw no token of it"))
        if used["smoothing"]:
            rows.append(("smoothing", _smoothing(used["smoothing"])))
    if record["quality"]:
        rows.append(("quality", _quality(record["quality"])))
        rows.append(("", f"{record['out']}/report/quality.html"))
    for reader in record["readers"]:
        rows.append(("reads it", reader["engine"]))
        if reader["serve"]:
            rows.append(("", reader["serve"].format(path=record["out"])))
    show(console, heading("Quantized", record["out"]), facts(rows))


def _smoothing(rows: list[dict[str, Any]]) -> str:
    before = sum(row["output_error_plain"] for row in rows) / len(rows)
    after = sum(row["output_error_smoothed"] for row in rows) / len(rows)
    return f"output error of {len(rows)} expert layers {before:.2%} to {after:.2%} on average"


def _quality(report: dict[str, Any]) -> str:
    (row,) = report["formats"]
    weights = f"error of the weights {row['weight_error']['mean']:.2%}"
    found = row["fidelity"]
    if found is None:
        return f"{weights}; answers were not compared"
    return (
        f"{weights}, KL divergence {found['kl']:.2e} nats a token, same top token "
        f"{found['top1']:.1%}, perplexity {report['source']['perplexity']:.4g} to "
        f"{found['perplexity']:.4g}"
    )


def dry_run(console: Console, out: str, steps: list[dict[str, Any]]) -> None:
    """What a build would do."""
    table = Table.grid(padding=(0, 2))
    for step in steps:
        style = "dim" if step["action"] == "keep" else "cyan"
        table.add_row(Text(step["action"], style=style), step["stage"], Text(step["what"]))
    show(console, heading("Would build", out), table)


def built(console: Console, record: dict[str, Any]) -> None:
    """What a build made, and how to go on."""
    if not record["made"]:
        line = f"\n [green]✓[/] {escape(record['bundle'])} is up to date; nothing was done\n"
        console.print(line, soft_wrap=True)
        return
    rows: list[tuple[str, RenderableType]] = [
        ("made", ", ".join(record["made"])),
        ("kept", ", ".join(record["kept"]) or "nothing"),
        ("bundle", f"{record['files']} files, {amount(record['bytes'])}"),
        ("backend", record["backend"]),
    ]
    rows += [("needs", Text(need, style="yellow")) for need in record["needs"]]
    where = record["bundle"]
    after = Text.assemble(
        ("check   ", "dim"), f"nemo-deploy verify {where}\n",
        ("try     ", "dim"), f"nemo-deploy serve {where}\n",
        ("deploy  ", "dim"), f"kubectl apply -k {where}/k8s",
    )  # fmt: skip
    show(console, heading("Built", where), facts(rows), after)


def warmed(console: Console, record: dict[str, Any]) -> None:
    """Whether a node answers as it should, and where it keeps what it compiled."""
    golden = record["golden"]
    rows: list[tuple[str, RenderableType]] = [
        ("executor", f"{record['executor']}, started in {record['start_s']:.1f} s"),
        ("outputs", f"{golden['action']}: {golden['detail']}"),
    ]
    found = golden["comparison"]
    if found:
        gain = "" if found["gain"] is None else f", gain {found['gain']:+.2f}"
        rows.append(
            ("", f"divergence {found['divergence']:.1e} nats a token, the same likeliest token at "
                 f"{found['agreement']:.1%}{gain}")
        )  # fmt: skip
    rows += [("off", Text(fault, style="bold red")) for fault in golden["faults"]]
    if record["trusted_code"]:
        rows.append(("code", trusted_note(record["trusted_code"])))
    rows += [("caches", path) for path in record["caches"].values()]
    show(console, heading("Ready" if record["ok"] else "Not ready", record["bundle"]), facts(rows))


def serving(console: Console, server: Serving) -> None:
    """Where a server listens, and how to try it."""
    model, http, grpc = server.model, server.http, server.grpc
    request = {contract.TEXT_INPUT: "Hello", contract.STREAMING: True, contract.MAX_TOKENS: 16}
    body = json.dumps({tensor.name: value for tensor, value in request.items()})
    rows: list[tuple[str, RenderableType]] = [
        ("gRPC", grpc),
        ("HTTP", http),
        ("try", f"curl -N {http}/v2/models/{model}/generate_stream -d '{body}'"),
        ("load", f"nemo-deploy loadtest grpc://{grpc}"),
        ("stop", "Ctrl-C"),
    ]
    if server.trusted_code:
        rows.insert(0, ("code", trusted_note(server.trusted_code)))
    show(console, heading("Serving", model), facts(rows))


def checks(console: Console, path: str, found: Iterable[Check]) -> None:
    """Every check with its result."""
    rows = [(check.name, check.ok, check.detail) for check in found]
    show(console, heading("Verified", path), _ticks(rows))


def diagnosis(console: Console, found: dict[str, Any]) -> None:
    """What this machine can do."""
    machine = (
        f"Python {found['python']}, {found['cores']} cores, {amount(found['memory_bytes'])} memory"
    )
    installed = ", ".join(f"{name} {version or '-'}" for name, version in found["packages"].items())
    rows = [(row["name"], row["ok"], row["detail"]) for row in found["abilities"]]
    show(console, heading("This machine", machine), _ticks(rows), Text(installed, style="dim"))


def _ticks(rows: Iterable[tuple[str, bool, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    for name, ok, detail in rows:
        table.add_row(GOOD if ok else BAD, Text(name), Text(detail))
    return table


def load_report(console: Console, report: dict[str, Any], kept: str | None) -> None:
    """A load test, one row a level."""
    show(console, heading("Load test", f"{report['model']} at {report['url']}"), load_table(report))
    for run in report["runs"]:
        for message, count in run["error_messages"].items():
            console.print(f" [red]{count} x[/] {escape(message)}")
    if report["aborted"]:
        console.print(f" [bold red]ended early:[/] {escape(report['aborted'])}")
    if report["slo"]["objectives"]:
        met = "[green]met[/]" if report["slo"]["met"] else "[bold red]missed[/]"
        wanted = ", ".join(report["slo"]["objectives"])
        console.print(f" objectives {wanted}: {met}, highest load {report['slo']['best'] or '-'}")
    if report["token_counting"] == "responses":
        console.print(" [dim]each response counted as one token (no tokenizer given)[/]")
    if kept:
        console.print(f" [dim]kept in {escape(kept)}[/]\n", soft_wrap=True)


def load_table(report: dict[str, Any]) -> Table:
    """Latencies in ms at p50, p90 and p99, and rates."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    names = ("load", "requests", "errors", "TTFT ms", "ITL ms", "E2E ms", "tokens/s", "req/s")
    for name in names:
        table.add_column(name, justify="right")
    for run in report["runs"]:
        errors = Text(str(run["errors"]), style="bold red" if run["errors"] else "")
        table.add_row(
            f"{run['rate']:g}/s" if "rate" in run else str(run["concurrency"]),
            str(run["requests"]),
            errors,
            *(_percentiles(run[key]) for key in ("ttft_ms", "itl_ms", "e2e_ms")),
            f"{run['output_tokens_per_s']:,.1f}",
            f"{run['requests_per_s']:.2f}",
        )
    table.caption = "latencies at p50/p90/p99"
    table.caption_justify = "left"
    return table


def _percentiles(values: dict[str, float | None]) -> str:
    shown = [values["p50"], values["p90"], values["p99"]]
    return "/".join("-" if value is None else _short(value) for value in shown)


def _short(value: float) -> str:
    """Two digits at least: 4.9, 29, 150."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
