"""Plans as self-contained HTML pages: memory, speed and cost; or all GPUs and formats at once."""

from __future__ import annotations

from pathlib import Path

from ..api.plan import MatrixResult, PeerComparison, PlanResult
from ..build.planner.money import Cost
from ..core.errors import BadInputError
from ..core.files import write_atomically
from ..core.html import Series, heading, lines, page, paragraph, stacked, table
from ..model.formats import QUANTS
from ..model.spec import Estimate
from .parts import amount
from .plan import LEGEND, by_gpu, cell_text, times_text, workload_text


def write(path: Path, found: PlanResult | MatrixResult) -> None:
    """Write the page to `path`. Raises `BadInputError` where it cannot be written."""
    text = plan_page(found) if isinstance(found, PlanResult) else matrix_page(found)
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise BadInputError(f"{path}: cannot be written: {error.strerror}") from error


def plan_page(plan: PlanResult) -> str:
    """One plan: why, what fits, how fast, what it costs."""
    title = f"{plan.model} as {plan.quant['requested']} on {plan.gpus} x {plan.gpu_name}"
    parts = [paragraph(reason) for reason in plan.reasons]
    parts += [paragraph(need, "note") for need in plan.needs]
    if plan.alternatives:
        parts.append(paragraph("Instead: " + "; ".join(plan.alternatives), "note"))
    parts += [paragraph(note, "note") for note in plan.notes]
    if plan.tried:
        parts.append(paragraph(plan.tried, "soft"))
    terms = {name.replace("_", " "): float(size) for name, size in plan.memory.items() if size > 0}
    shown = {name: amount(size) for name, size in terms.items()}
    parts += [heading("Memory of one GPU"), stacked(terms, shown, "bytes by what they hold")]
    if not plan.refused:
        batch, context = plan.concurrency, plan.context
        parts.append(
            paragraph(
                f"Set up for {batch} sequences of {context:,} tokens. {plan.max_concurrency} of "
                f"them would fit, or {batch} of {plan.max_context:,} tokens."
            )
        )
    if plan.estimate is not None:
        parts += _speed(plan.estimate)
    if plan.against:
        parts.append(_against(plan.against))
    if plan.not_against:
        parts.append(paragraph(plan.not_against, "note"))
    if plan.cost:
        parts += _money(plan.cost)
    return page(title, parts)


def _speed(guess: Estimate) -> list[str]:
    labels = [str(point.concurrency) for point in guess.curve]
    total = Series("tokens/s", [point.output_tokens_per_s for point in guess.curve])
    times = [
        Series("with prompts", [point.itl_ms for point in guess.curve]),
        Series("decoding only", [point.tpot_ms for point in guess.curve]),
    ]
    over = "over sequences at once (estimated)"
    return [
        heading("Speed"),
        lines([total], labels, f"output tokens a second of the deployment, {over}", percent=False),
        lines(times, labels, f"milliseconds a token, {over}", percent=False),
        table(
            ("what a decoding step goes to", "ms"),
            [(name.replace("_", " "), f"{ms:.2f}") for name, ms in guess.terms_ms.items()],
        ),
        *(paragraph(line, "soft") for line in guess.assumptions),
    ]  # fmt: skip


def _against(rival: PeerComparison) -> str:
    return paragraph(
        f"Beside {rival.model} ({amount(rival.weights_bytes)}, {rival.output_tokens_per_s:,.0f} "
        f"output tokens/s at {rival.concurrency} sequences): {times_text(rival, 'that')}.",
        "note",
    )


def _money(cost: Cost) -> list[str]:
    rows = [
        (
            f"this, {cost.concurrency} sequences",
            f"{cost.input_per_million:.3f}",
            f"{cost.output_per_million:.3f}",
        )
    ]
    parts = [
        paragraph(f"{cost.price_per_gpu_hour:g} USD a GPU hour ({cost.price_source}).", "soft")
    ]
    if cost.api_input_per_million is not None and cost.api_output_per_million is not None:
        api = (f"{cost.api_input_per_million:.3f}", f"{cost.api_output_per_million:.3f}")
        rows.append(("a hosted API", *api))
        parts.append(paragraph(f"API: {cost.api_source}.", "soft"))
    if cost.break_even_share is not None and cost.break_even_requests_per_hour is not None:
        load = f"{cost.break_even_requests_per_hour:,.0f} requests an hour"
        verdict = (
            f"Own GPUs cost less from a steady load of {load} on, {cost.break_even_share:.0%} of "
            "what they are estimated to serve."
            if cost.break_even_share <= 1
            else f"The API costs less at any load: both would be even at {load}, more than these "
            "GPUs are estimated to serve."
        )
        parts.insert(0, paragraph(verdict))
    return [heading("Money"), table(("USD per million tokens", "input", "output"), rows), *parts]


def matrix_page(found: MatrixResult) -> str:
    """All GPUs and formats."""
    rows = [(key, *map(cell_text, cells)) for key, cells in by_gpu(found).items()]
    best = next((cell_text(cell) for cell in found.cells if found.is_best(cell)), None)
    parts = [
        paragraph(f"{workload_text(found.workload)}."),
        table(("GPU", *QUANTS), rows, "cells", best),
        paragraph(LEGEND, "soft"),
    ]
    if found.best:
        parts.append(paragraph(f"Best: {found.why}", "note"))
    return page(f"{found.model}: GPUs and formats", parts)
