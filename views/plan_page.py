"""Plans as self-contained HTML pages: memory, speed and cost; or all GPUs and formats at once."""

from __future__ import annotations

from datetime import date
from functools import partial
from pathlib import Path
from typing import Final

from ..api.plan_result import MatrixCell, MatrixResult, PeerComparison, PlanResult
from ..build.planner.money import Cost
from ..core.errors import BadInputError
from ..core.files import write_atomically
from ..core.html import (
    Series,
    bullets,
    charts,
    heading,
    lines,
    page,
    paragraph,
    stacked,
    table,
    today,
)
from ..model.spec import Estimate
from .parts import amount, concession_text
from .plan import by_gpu, engine_text, formats, others_text, times_text, workload_text

_STATUS: Final = {
    "supported": "Supported.",
    "needs": "Can be built. Serving it on a GPU needs what is listed below.",
    "refused": "Not possible.",
    "compared": "Planned only: nemo-deploy does not build this model.",
}


def write(path: Path, result: PlanResult | MatrixResult) -> None:
    """Write the page to `path`. Raises `BadInputError` where it cannot be written."""
    made_on = today()
    text = (
        plan_page(result, made_on)
        if isinstance(result, PlanResult)
        else matrix_page(result, made_on)
    )
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise BadInputError(f"{path}: cannot be written: {error.strerror}") from error


def plan_page(plan: PlanResult, made_on: date) -> str:
    """One plan: whether it is possible and why, what fits, how fast it is, what it costs."""
    title = f"{plan.model} as {plan.quant['requested']} on {plan.gpus} x {plan.gpu_name}"
    parts = [paragraph(" ".join((_STATUS[plan.status], *plan.reasons, f"(Rule {plan.rule}.)")))]
    parts += [paragraph(f"Needs: {need}", "note") for need in plan.needs]
    if plan.alternatives:
        parts += [paragraph("What works instead:"), bullets(plan.alternatives)]
    parts += [paragraph(note, "note") for note in plan.notes]
    if plan.why:
        parts.append(paragraph(f"Why this format: {plan.why}"))
    if plan.tried:
        parts.append(paragraph(plan.tried, "soft"))
    parts += _memory(plan)
    if plan.estimate is not None:
        parts += _speed(plan.estimate)
    if plan.against:
        parts.append(_against(plan.against))
    if plan.not_against:
        parts.append(paragraph(plan.not_against, "note"))
    if plan.cost:
        parts += _money(plan.cost)
    elif plan.estimate is not None:
        parts += [heading("Cost"), paragraph(_NO_COST)]
    return page(title, parts, made_on)


_NO_COST: Final = (
    "No cost is estimated: either no list price is known for this GPU (give yours with --price), "
    "or no number of sequences keeps to --max-tpot."
)


def _memory(plan: PlanResult) -> list[str]:
    terms = {name.replace("_", " "): float(size) for name, size in plan.memory.items() if size > 0}
    shown = {name: amount(size) for name, size in terms.items()}
    caption = f"What the memory of one GPU {'would hold' if plan.refused else 'holds'}"
    parts = [heading("Memory"), stacked(terms, shown, caption)]
    if not plan.refused:
        batch, context = plan.concurrency, plan.context
        parts.append(
            paragraph(
                f"Configured for {batch} sequences of {context:,} tokens. The memory is enough for "
                f"{plan.max_concurrency} such sequences, or for {batch} sequences of "
                f"{plan.max_context:,} tokens."
            )
        )
    if plan.concessions:
        parts += [
            paragraph("What the server gives up so that the model fits:"),
            bullets(map(concession_text, plan.concessions)),
        ]
    return parts


def _speed(guess: Estimate) -> list[str]:
    labels = [str(point.concurrency) for point in guess.curve]
    total = Series("tokens/s", [point.output_tokens_per_s for point in guess.curve])
    times = [
        Series("while prompts are processed too", [point.itl_ms for point in guess.curve]),
        Series("while only decoding", [point.tpot_ms for point in guess.curve]),
    ]
    axis = "sequences at once"
    return [
        heading("Speed (estimated)"),
        charts(
            [
                lines([total], labels, "Output tokens per second of all GPUs", axis, percent=False),
                lines(times, labels, "Milliseconds per token", axis, percent=False),
            ]
        ),
        table(
            ("Time of one decoding step", "ms"),
            [(name.replace("_", " "), f"{ms:.2f}") for name, ms in guess.terms_ms.items()],
        ),
        paragraph("Assumptions of the estimate:", "soft"),
        bullets(guess.assumptions, "soft"),
    ]


def _against(rival: PeerComparison) -> str:
    return paragraph(
        f"Compared with {rival.model} ({amount(rival.weights_bytes)}, "
        f"{rival.output_tokens_per_s:,.0f} output tokens/s at {rival.concurrency} sequences): "
        f"{times_text(rival, 'that')}.",
        "note",
    )


def _money(cost: Cost) -> list[str]:
    rows = [
        (
            f"this plan at {cost.concurrency} sequences",
            f"{cost.input_per_million:.3f}",
            f"{cost.output_per_million:.3f}",
        )
    ]
    sources = [f"GPU: {_price_text(cost)}."]
    if cost.api_input_per_million is not None and cost.api_output_per_million is not None:
        api = (f"{cost.api_input_per_million:.3f}", f"{cost.api_output_per_million:.3f}")
        rows.append(("a hosted API", *api))
        sources.append(f"API: {cost.api_source}.")
    parts = [heading("Cost (estimated)"),
             table(("USD per million tokens", "input", "output"), rows)]  # fmt: skip
    if cost.break_even_share is not None and cost.break_even_requests_per_hour is not None:
        load = f"{cost.break_even_requests_per_hour:,.0f} requests per hour"
        parts.append(
            paragraph(
                f"Your own GPUs cost less than the API from a steady load of {load}, "
                f"which is {cost.break_even_share:.0%} of their estimated capacity."
                if cost.break_even_share <= 1
                else f"The API costs less at any load: both cost the same at {load}, more than "
                "the estimated capacity of these GPUs."
            )
        )
    return [*parts, paragraph("Sources of the prices:", "soft"), bullets(sources, "soft")]


def _price_text(cost: Cost) -> str:
    """The price of a GPU hour, and where it is from."""
    source = "given with --price" if cost.price_source == "--price" else cost.price_source
    return f"{cost.price_per_gpu_hour:g} USD per hour ({source})"


def matrix_page(result: MatrixResult, made_on: date) -> str:
    """All GPUs and formats."""
    by_key = by_gpu(result)
    rows = [(key, *map(partial(_cell_text, result.engine), cells)) for key, cells in by_key.items()]
    best = next(
        (_cell_text(result.engine, cell) for cell in result.cells if result.is_best(cell)), None
    )
    parts = [
        paragraph(f"For requests of {workload_text(result.workload)}."),
        *([paragraph(f"Best: {result.why}", "note")] if result.best else []),
        table(("GPU", *formats(result)), rows, "cells", best),
        heading("How to read a cell"),
        bullets(_explained(result)),
    ]
    refusals = _refusals(result)
    if refusals:
        parts += [heading("Why some combinations are not possible"),
                  table(("Rule", "GPU and format", "Reason"), refusals, "cells")]  # fmt: skip
    parts += [heading("Prices of the GPUs and their sources"), bullets(_prices(by_key))]
    return page(f"{result.model}: GPUs and formats", parts, made_on)


def _cell_text(asked: str, cell: MatrixCell) -> str:
    """What one GPU and format gives, a fact a line; or why it is not possible."""
    others = others_text(cell)
    if cell.refused:
        return ("too large" if cell.rule == "memory" else f"no: {cell.rule}") + others
    if not cell.served:
        return f"not on a GPU{others}"
    rate = cell.output_tokens_per_s_per_gpu
    speed = f"{rate:,.0f} tokens/s" if rate else "too slow"
    price = f"${cell.cost.output_per_million:#.2g} per M" if cell.cost else "no price"
    mark = " ¹" * (not cell.tried) + " ²" * bool(cell.concessions) + others
    size = f"{cell.concurrency} x {cell.max_context // 1024}k"
    return f"{speed}{mark}\n{price}\n{size}{engine_text(cell, asked)}"


def _explained(result: MatrixResult) -> list[str]:
    """What the words in the cells mean, as far as they occur."""
    texts = " ".join(map(partial(_cell_text, result.engine), result.cells))
    limits = {cell.cost.max_tpot_ms for cell in result.cells if cell.cost}
    limit = "".join(f" of {limit:g} ms per token" for limit in limits)
    meanings = {
        "tokens/s": "estimated output tokens per second of each GPU, at the most sequences that "
        f"keep to the objective{limit}. Below the price: for how many sequences it is configured, "
        "and how long a context each of them can have (1k is 1024 tokens).",
        "per M": "estimated USD per million output tokens at that speed.",
        "no price": "no list price of this GPU is known; give yours with --price.",
        "too slow": "no number of sequences keeps to the objective.",
        "too large": "the weights and caches do not fit into the memory.",
        "not on a GPU": "it can be built, but no engine serves it on a GPU.",
        "no:": "not possible, by the rule with this id. The rules are explained below.",
        "(": "another engine, which needs nothing unproven there: --engine auto takes it.",
        "¹": "needs this project's plugin, which has not served on such a GPU yet. Such a "
        "combination is never chosen as the best.",
        "²": "fits in a reduced configuration only; the plan of that GPU and format says what is "
        "given up.",
    }
    return [f"{word.rstrip(':')}: {text}" for word, text in meanings.items() if word in texts]


def _refusals(result: MatrixResult) -> list[tuple[str, str, str]]:
    """Each rule that refuses something with its reasons, and where each of them holds."""
    where: dict[tuple[str, str], list[str]] = {}
    for cell in result.cells:
        if cell.refused:
            key = cell.rule, " ".join(cell.reasons)
            where.setdefault(key, []).append(f"{cell.gpu} {cell.quant}")
    return [
        ("too large" if rule == "memory" else rule, ", ".join(cells), reason)
        for (rule, reason), cells in sorted(where.items())
    ]


def _prices(by_key: dict[str, list[MatrixCell]]) -> list[str]:
    """The price of each GPU that something runs on, and where it is from."""
    texts = []
    for key, cells in by_key.items():
        if any(cell.output_tokens_per_s_per_gpu for cell in cells):
            cost = next((cell.cost for cell in cells if cell.cost), None)
            texts.append(f"{key}: {_price_text(cost) if cost else 'no list price is known'}")
    return texts
