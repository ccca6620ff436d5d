"""Views of `plan`."""

from __future__ import annotations

from typing import Final

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ..api.plan_result import MatrixCell, MatrixResult, PeerComparison, PlanResult
from ..build.planner.money import Cost
from ..model.spec import Estimate, Workload
from .parts import amount, concession_text, engine_rows, facts, heading, show, stacked_bar

_REFUSALS: Final = {
    "memory": "too large",
    "int4-kernels": "no kernels",
    "int8-kernels": "no kernels",
}

CURVE_WIDTH: Final = 36
"""Characters of the longest bar of the throughput curve."""


def show_result(console: Console, result: PlanResult | MatrixResult) -> None:
    """One plan, or all GPUs and formats."""
    if isinstance(result, MatrixResult):
        matrix(console, result)
    else:
        plan(console, result)


def plan(console: Console, plan: PlanResult) -> None:
    """What would be built, whether it can run, and what it costs."""
    title = heading(f"{plan.model} · {plan.quant['requested']} · {plan.gpus} x {plan.gpu_name}")
    rows: list[tuple[str, RenderableType]] = [("status", _status(plan))]
    rows += [("why" if plan.refused else "", reason) for reason in plan.reasons]
    rows.append(("layers", plan.layers))
    rows += [("needs", need) for need in plan.engine.needs]
    if plan.engine.evidence:
        rows.append(("tested", plan.engine.evidence))
    if plan.alternatives:
        rows.append(("instead", "\n".join(plan.alternatives)))
    if plan.why:
        rows.append(("chosen", plan.why))
    rows += engine_rows(plan.engines, plan.engine.name, plan.engine_hint)
    rows += [("given up", concession_text(concession)) for concession in plan.concessions]
    rows += [("note", Text(note, style="yellow")) for note in plan.notes]
    if not plan.refused:
        rows += _capacity(plan)
    if plan.cost:
        rows += _money(plan.cost, plan.concurrency)
    if plan.against:
        rows += _against(plan.against)
    if plan.not_against:
        rows.append(("compared", plan.not_against))
    memory = {name: float(size) for name, size in plan.memory.items() if size > 0}
    blocks: list[RenderableType] = [title, facts(rows), stacked_bar(memory)]
    if plan.estimate:
        blocks.append(_curve(plan.estimate))
    show(console, *blocks)


def _status(plan: PlanResult) -> Text:
    engine = plan.engine
    supported = (
        f"supported by {engine.title} with nemo-deploy's plugin"
        if engine.plugin
        else f"supported by released {engine.title}"
    )
    style, words = {
        "supported": ("bold green", supported),
        "needs": ("bold yellow", "can be built; serving on a GPU needs what is listed below"),
        "refused": ("bold red", "refused"),
        "compared": ("bold cyan", "planned only, never built"),
    }[plan.status]
    return Text.assemble((words, style), (f"  rule {plan.rule}", "dim"))


def _capacity(plan: PlanResult) -> list[tuple[str, RenderableType]]:
    context, batch, engine = plan.context, plan.concurrency, plan.engine
    rows: list[tuple[str, RenderableType]] = [
        ("backend", f"{engine.backend}, {engine.title} {engine.versions}"),
        ("image", engine.image),
        *[("environment", f"{name}={value}") for name, value in engine.env.items()],
        ("weights", amount(plan.weights_bytes)),
        ("KV cache", f"{plan.kv_bytes_per_token:,} B a token, {_dtype(plan.kv_dtype)}"),
        *_state(plan),
        ("configured for", f"{batch} sequences of {context:,} tokens"),
        ("capacity", f"{plan.max_concurrency} sequences of {context:,} tokens, "
                     f"or {batch} of {plan.max_context:,}"),
    ]  # fmt: skip
    if plan.estimate:
        guess = plan.estimate
        speed = (
            f"{guess.tpot_ms:.1f} ms a token while only decoding, {guess.itl_ms:.1f} with other "
            f"requests' prompts in between; first token after {guess.ttft_ms:.0f} ms; "
            f"{guess.output_tokens_per_s:,.0f} output tokens/s"
        )
        rows += [("estimate", speed), ("", Text("; ".join(guess.assumptions), style="dim"))]
    return rows


def _state(plan: PlanResult) -> list[tuple[str, RenderableType]]:
    if not plan.state_bytes_per_sequence:
        return []
    whole, conv = amount(plan.state_bytes_per_sequence), amount(plan.conv_bytes_per_sequence)
    dtype = _dtype(plan.serving.state_dtype)
    return [("Mamba state", f"{whole} a sequence, {dtype}; {conv} of it convolution, BF16")]


def _dtype(name: str) -> str:
    """A safetensors dtype as it is called in text."""
    return {"F8_E4M3": "FP8", "F32": "FP32", "F16": "FP16"}.get(name, name)


def _money(cost: Cost, configured_for: int) -> list[tuple[str, RenderableType]]:
    own = (
        f"{cost.input_per_million:.3f} USD per million input tokens, "
        f"{cost.output_per_million:.3f} output, at {cost.concurrency} sequences "
        f"(at most {cost.max_tpot_ms:g} ms a token, other requests' prompts included)"
    )
    if cost.concurrency > configured_for:
        own += f"; build with --concurrency {cost.concurrency} for that"
    priced = f"{cost.price_per_gpu_hour:g} USD a GPU hour ({cost.price_source})"
    rows: list[tuple[str, RenderableType]] = [("cost", own), ("", Text(priced, style="dim"))]
    share, load = cost.break_even_share, cost.break_even_requests_per_hour
    if share is not None and load is not None:
        api = f"an API costs {cost.api_input_per_million:g} / {cost.api_output_per_million:g} USD"
        verdict = (
            f"{api}; your own GPUs cost less from {load:,.0f} requests an hour, {share:.0%} of "
            "their capacity"
            if share <= 1
            else f"{api}; your own GPUs cost more at any load"
        )
        rows += [("", verdict), ("", Text(cost.api_source, style="dim"))]
    return rows


def _against(peer: PeerComparison) -> list[tuple[str, RenderableType]]:
    theirs = (
        f"{peer.model}: {amount(peer.weights_bytes)}, {peer.output_tokens_per_s:,.0f} output "
        f"tokens/s at {peer.concurrency} sequences"
    )
    return [("compared", theirs), ("", times_text(peer, "that here"))]


def times_text(peer: PeerComparison, of_what: str) -> str:
    """How many times the peer's tokens a second this model gives."""
    return (
        f"{peer.times_at_best:.1f} times {of_what}, each at its most sequences within the "
        f"objective; {peer.times_at_same:.1f} times at {peer.concurrency} sequences each"
    )


def _curve(guess: Estimate) -> RenderableType:
    """Output tokens a second over sequences at once, as bars with the times beside them."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("sequences", "tokens/s", ""):
        table.add_column(name, justify="right" if name else "left")
    table.add_column("ms a token", justify="right")
    most = max(point.output_tokens_per_s for point in guess.curve)
    for point in guess.curve:
        bar = "█" * max(1, round(CURVE_WIDTH * point.output_tokens_per_s / most))
        table.add_row(
            str(point.concurrency),
            f"{point.output_tokens_per_s:,.0f}",
            Text(bar, style="cyan"),
            f"{point.itl_ms:.1f}",
        )
    return table


LEGEND: Final = (
    "First line: output tokens/s of each GPU and USD per million output tokens, at the most "
    "sequences within the objective. Second line: sequences that the server is configured for x "
    "the longest context of each. All figures are estimates. $? marks a GPU without a list price. "
    "¹ served by nemo-deploy's plugin, which has not served on such a GPU yet. ² fits in a reduced "
    "configuration only: plan --gpu --quant says what is given up. (vllm) that engine serves it "
    "with nothing unproven: --engine auto takes it"
)


def matrix(console: Console, result: MatrixResult) -> None:
    """Every GPU and format: whether it runs, how long a context, how fast, how expensive."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("GPU")
    for quant in formats(result):
        table.add_column(quant)
    for key, cells in by_gpu(result).items():
        shown = [
            Text("★" if result.is_best(cell) else "", style="bold green").append(
                cell_text(cell, result.engine), style="dim" if cell.refused else ""
            )
            for cell in cells
        ]
        table.add_row(Text(key), *shown, end_section=True)
    note = workload_text(result.workload)
    parts: list[RenderableType] = [heading(result.model, note), table, Text(LEGEND, style="dim")]
    if result.why:
        parts.append(Text.assemble(("best  ", "bold green"), result.why))
    show(console, *parts)


def workload_text(size: Workload) -> str:
    """The workload that each cell of a matrix is planned for."""
    return f"{size.isl} tokens in, {size.osl} out, {size.gpus} GPU{'s' if size.gpus > 1 else ''}"


def by_gpu(result: MatrixResult) -> dict[str, list[MatrixCell]]:
    """The cells of each GPU, one for each format."""
    rows: dict[str, list[MatrixCell]] = {}
    for cell in result.cells:
        rows.setdefault(cell.gpu, []).append(cell)
    return rows


def formats(result: MatrixResult) -> tuple[str, ...]:
    """The formats of the cells, each once."""
    return tuple(dict.fromkeys(cell.quant for cell in result.cells))


def cell_text(cell: MatrixCell, asked: str) -> str:
    """What one GPU and format gives, in two lines; or in one, why it does not run. The engine is
    named where `asked`, the matrix's, is another one."""
    others = others_text(cell)
    if cell.refused:
        return _REFUSALS.get(cell.rule, f"no: {cell.rule}") + others
    if not cell.served:
        return f"not on a GPU{others}"
    mark = " ".join(["¹"] * (not cell.tried) + ["²"] * bool(cell.concessions)) + others
    money = f"${cell.cost.output_per_million:#.2g}" if cell.cost else "$?"
    speed = cell.output_tokens_per_s_per_gpu
    words = f"{speed:,.0f}/s" if speed else "too slow"
    size = f"{cell.concurrency} x {cell.max_context // 1024}k"
    return f"{words} {money}{mark}\n{size}{engine_text(cell, asked)}"


def engine_text(cell: MatrixCell, asked: str) -> str:
    """The engine of a cell, where it is not the one that all were planned for."""
    return "" if cell.engine == asked else f" {cell.engine}"


def others_text(cell: MatrixCell) -> str:
    """Other engines that serve it with nothing unproven, where the planned one does not."""
    ready = cell.supported and cell.served and cell.tried
    return "" if ready or not cell.others else f" ({', '.join(cell.others)})"
