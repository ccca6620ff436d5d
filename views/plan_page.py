"""A plan as a self-contained HTML page: memory as bars, speed and cost over concurrency."""

from __future__ import annotations

from pathlib import Path

from ..errors import BadInputError
from ..files import write_atomically
from ..pages import Series, bars, heading, lines, page, paragraph, table
from ..verbs.plan import Answer
from .parts import amount


def write(path: Path, answer: Answer) -> None:
    """Write the page to `path`. Raises `BadInputError` where it cannot be written."""
    try:
        write_atomically(path, plan_page(answer).encode())
    except OSError as error:
        raise BadInputError(f"{path}: cannot be written: {error.strerror}") from error


def plan_page(answer: Answer) -> str:
    """The page."""
    plan = answer.plan
    title = f"{plan.model} as {plan.quant['requested']} on {plan.gpus} x {plan.gpu}"
    parts = [paragraph(reason) for reason in plan.reasons]
    if plan.alternatives:
        parts.append(paragraph("Instead: " + "; ".join(plan.alternatives), "note"))
    if plan.tried:
        parts.append(paragraph(plan.tried, "soft"))
    terms = {name.replace("_", " "): float(size) for name, size in plan.memory.items() if size > 0}
    shown = {name: amount(size) for name, size in terms.items()}
    parts += [heading("Memory of one GPU"), bars(terms, shown, "bytes by what they hold")]
    if plan.estimate is not None:
        curve = plan.estimate.curve
        labels = [str(point.concurrency) for point in curve]
        total = [point.output_tokens_per_s for point in curve]
        parts += [
            heading("Speed"),
            lines([Series("tokens/s", total)], labels,
                  "output tokens a second of the deployment, over sequences at once (estimated)",
                  percent=False),
            lines([Series("ms a token", [point.tpot_ms for point in curve])], labels,
                  "milliseconds a token, over sequences at once (estimated)", percent=False),
            table(
                ("what a decoding step goes to", "ms"),
                [(n.replace("_", " "), f"{ms:.2f}") for n, ms in plan.estimate.terms_ms.items()],
            ),
            *(paragraph(line, "soft") for line in plan.estimate.assumptions),
        ]  # fmt: skip
    if answer.cost:
        cost = answer.cost
        parts += [
            heading("Money"),
            table(
                ("USD per million tokens", "input", "output"),
                [
                    (f"this, {cost.concurrency} sequences", f"{cost.input_per_million:.3f}",
                     f"{cost.output_per_million:.3f}"),
                    *([("a hosted API", f"{cost.api_input_per_million:.3f}",
                        f"{cost.api_output_per_million:.3f}")]
                      if cost.api_input_per_million is not None else []),
                ],
            ),
            paragraph(f"{cost.price_per_gpu_hour:g} USD a GPU hour ({cost.price_source}).", "soft"),
        ]  # fmt: skip
    return page(title, parts)
