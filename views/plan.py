"""Views of `plan`."""

from __future__ import annotations

from typing import Final

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ..api.plan import Answer, Matrix, Rival
from ..build.planner.matrix import Cell
from ..build.planner.money import Cost
from ..model.spec import QUANTS, Estimate, Plan, Workload
from .parts import amount, facts, heading, show, stacked_bar

_REFUSALS: Final = {"memory": "too large"}

CURVE_WIDTH: Final = 36
"""Characters of the longest bar of the throughput curve."""


def plan(console: Console, answer: Answer) -> None:
    """What would be built, whether it can run, and what it costs."""
    plan = answer.plan
    title = heading(f"{plan.model} · {plan.quant['requested']} · {plan.gpus} x {plan.gpu_name}")
    rows: list[tuple[str, RenderableType]] = [("status", _status(plan))]
    rows += [("why" if plan.refused else "", reason) for reason in plan.reasons]
    rows += [("needs", need) for need in plan.needs]
    if plan.tried:
        rows.append(("hardware", plan.tried))
    if plan.alternatives:
        rows.append(("instead", "\n".join(plan.alternatives)))
    if answer.why:
        rows.append(("chosen", answer.why))
    rows += [("mind", Text(note, style="yellow")) for note in plan.notes]
    if not plan.refused:
        rows += _capacity(plan)
    if answer.cost:
        rows += _money(answer.cost, plan.llm_args["max_batch_size"])
    if answer.rival:
        rows += _against(answer.rival)
    if answer.no_rival:
        rows.append(("against", answer.no_rival))
    memory = {name: float(size) for name, size in plan.memory.items() if size > 0}
    blocks: list[RenderableType] = [title, facts(rows), stacked_bar(memory)]
    if plan.estimate:
        blocks.append(_curve(plan.estimate))
    show(console, *blocks)


def _status(plan: Plan) -> Text:
    style, words = {
        "supported": (
            "bold green",
            "supported by released TensorRT-LLM" + (" with our plugin" if plan.plugin else ""),
        ),
        "needs": ("bold yellow", "needs what is named below to run on a GPU"),
        "refused": ("bold red", "refused"),
        "compared": ("bold cyan", "for comparison only"),
    }[plan.status]
    return Text.assemble((words, style), (f"  rule {plan.rule}", "dim"))


def _capacity(plan: Plan) -> list[tuple[str, RenderableType]]:
    context, batch = plan.llm_args["max_seq_len"], plan.llm_args["max_batch_size"]
    rows: list[tuple[str, RenderableType]] = [
        ("backend", f"{plan.backend}, TensorRT-LLM {plan.trtllm_versions}"),
        ("image", plan.image),
        *[("environment", f"{name}={value}") for name, value in plan.env.items()],
        ("weights", amount(plan.weights_bytes)),
        ("KV cache", f"{plan.kv_bytes_per_token:,} B a token, {_kv(plan)}"),
        *_state(plan),
        ("set up for", f"{batch} sequences of {context:,} tokens"),
        ("would fit", f"{plan.max_concurrency} sequences of {context:,} tokens, "
                      f"or {batch} of {plan.max_context:,}"),
    ]  # fmt: skip
    if plan.estimate:
        guess = plan.estimate
        speed = (
            f"{guess.tpot_ms:.1f} ms a token while only decoding, {guess.itl_ms:.1f} with prompts "
            f"between; first token after {guess.ttft_ms:.0f} ms; "
            f"{guess.output_tokens_per_s:,.0f} output tokens/s"
        )
        rows += [("estimate", speed), ("", Text("; ".join(guess.assumptions), style="dim"))]
    return rows


def _state(plan: Plan) -> list[tuple[str, RenderableType]]:
    if not plan.state_bytes_per_sequence:
        return []
    whole, conv = amount(plan.state_bytes_per_sequence), amount(plan.conv_bytes_per_sequence)
    return [("Mamba state", f"{whole} a sequence, FP32; {conv} of it convolution, BF16")]


def _kv(plan: Plan) -> str:
    return "FP8" if plan.llm_args["kv_cache_config"]["dtype"] == "fp8" else "BF16"


def _money(cost: Cost, set_up_for: int) -> list[tuple[str, RenderableType]]:
    own = (
        f"{cost.input_per_million:.3f} USD per million input tokens, "
        f"{cost.output_per_million:.3f} output, at {cost.concurrency} sequences "
        f"(at most {cost.max_tpot_ms:g} ms a token, others' prompts included)"
    )
    if cost.concurrency > set_up_for:
        own += f"; build with --concurrency {cost.concurrency} for that"
    priced = f"{cost.price_per_gpu_hour:g} USD a GPU hour ({cost.price_source})"
    rows: list[tuple[str, RenderableType]] = [("cost", own), ("", Text(priced, style="dim"))]
    share, load = cost.break_even_share, cost.break_even_requests_per_hour
    if share is not None and load is not None:
        api = f"an API asks {cost.api_input_per_million:g} / {cost.api_output_per_million:g} USD"
        verdict = (
            f"{api}; cheaper than that from {load:,.0f} requests an hour on, {share:.0%} of what "
            "this serves"
            if share <= 1
            else f"{api}; that is less than this costs at any load"
        )
        rows += [("", verdict), ("", Text(cost.api_source, style="dim"))]
    return rows


def _against(rival: Rival) -> list[tuple[str, RenderableType]]:
    theirs = (
        f"{rival.model}: {amount(rival.weights_bytes)}, {rival.output_tokens_per_s:,.0f} output "
        f"tokens/s at {rival.concurrency} sequences"
    )
    return [("against", theirs), ("", times_text(rival, "that here"))]


def times_text(rival: Rival, of_what: str) -> str:
    """How many times the rival's tokens a second ours are."""
    return (
        f"{rival.times_at_best:.1f} times {of_what}, each at its most sequences within the "
        f"objective; {rival.times_at_same:.1f} times at {rival.concurrency} sequences each"
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
    "output tokens/s of each GPU and USD per million output tokens, at the most sequences within "
    "the objective; below, sequences it is set up for x the longest context that each can have. "
    "Estimated. ¹ with our plugin, which has not run on such a GPU"
)


def matrix(console: Console, found: Matrix) -> None:
    """Every GPU and format: does it run, how long a context, how fast, how expensive."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("GPU")
    for quant in QUANTS:
        table.add_column(quant)
    for key, cells in by_gpu(found).items():
        shown = [
            Text("★" if cell is found.best else "", style="bold green").append(
                cell_text(cell), style="dim" if cell.plan.refused else ""
            )
            for cell in cells
        ]
        table.add_row(Text(key), *shown, end_section=True)
    note = workload_text(found.workload)
    parts: list[RenderableType] = [heading(found.model, note), table, Text(LEGEND, style="dim")]
    if found.best:
        parts.append(Text.assemble(("best  ", "bold green"), found.why))
    show(console, *parts)


def workload_text(size: Workload) -> str:
    """What each cell of a matrix is asked to carry."""
    return f"{size.isl} tokens in, {size.osl} out, {size.gpus} GPU{'s' if size.gpus > 1 else ''}"


def by_gpu(found: Matrix) -> dict[str, list[Cell]]:
    """The cells of each GPU, one a format."""
    rows: dict[str, list[Cell]] = {}
    for cell in found.cells:
        rows.setdefault(cell.plan.gpu, []).append(cell)
    return rows


def cell_text(cell: Cell) -> str:
    """What one GPU and format gives, in two lines; or in one, why it does not run."""
    plan = cell.plan
    if plan.refused:
        return _REFUSALS.get(plan.rule, f"no: {plan.rule}")
    if plan.estimate is None:
        return "not on a GPU"
    mark = "" if cell.tried else "¹"
    money = f"${cell.cost.output_per_million:#.2g}" if cell.cost else "$?"
    speed = f"{cell.tokens_per_s_per_gpu:,.0f}/s" if cell.tokens_per_s_per_gpu else "too slow"
    batch = plan.llm_args["max_batch_size"]
    return f"{speed} {money}{mark}\n{batch} x {plan.max_context // 1024}k"
