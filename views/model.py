"""Views of `inspect` and `plan`."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from ..spec import Plan
from .parts import amount, facts, heading, show, stacked_bar


def inspection(console: Console, found: dict[str, Any]) -> None:
    """What a model is and what it weighs."""
    layers = ", ".join(f"{count} {kind}" for kind, count in found["layers"].items() if count)
    experts = found["experts"]
    rows: list[tuple[str, RenderableType]] = [
        ("architecture", found["architecture"]),
        ("layers", f"{sum(found['layers'].values())}: {layers}"),
        ("pattern", found["pattern"]),
        ("parameters", f"{found['parameters_total']:,} ({amount(found['parameters_total'], '')})"),
        ("active per token", f"{found['parameters_active']:,} without the embedding table"),
    ]
    if experts:
        chosen = f"{experts['routed']} routed, {experts['per_token']} per token"
        rows.append(("experts", f"{chosen}, width {experts['width']}"))
    dtypes = ", ".join(f"{name} {amount(size)}" for name, size in found["dtypes"].items())
    kv, state = found["kv_bytes_per_token"], found["state_bytes_per_sequence"]
    rows += [
        ("weights", f"{amount(found['bytes'])} in {found['tensors']:,} tensors ({dtypes})"),
        ("KV cache", f"{kv['bf16']:,} B a token in BF16, {kv['fp8']:,} B in FP8"),
        (
            "Mamba state",
            f"{amount(state['fp32'])} a sequence in FP32, {amount(state['bf16'])} in BF16",
        ),
    ]
    if found["quantization"]:
        rows.append(("quantization", found["quantization"]))
    bar = stacked_bar(_largest(found["parameters_by_role"]), unit="")
    show(console, heading(found["model"], found["source"]), facts(rows), bar)


def _largest(parts: dict[str, int], count: int = 5) -> dict[str, float]:
    """The largest parts, and all others together."""
    ranked = sorted(parts.items(), key=lambda item: -item[1])
    rest = sum(value for _, value in ranked[count:])
    shown: dict[str, float] = dict(ranked[:count])
    return shown | ({"other": rest} if rest else {})


def plan(console: Console, plan: Plan) -> None:
    """What would be built, and whether it can run."""
    title = heading(f"{plan.model} · {plan.quant['requested']} · {plan.gpus} x {plan.gpu}")
    rows: list[tuple[str, RenderableType]] = [("status", _status(plan))]
    rows += [("why" if plan.status == "refused" else "", reason) for reason in plan.reasons]
    rows += [("needs", need) for need in plan.needs]
    if plan.tried:
        rows.append(("hardware", plan.tried))
    if plan.alternatives:
        rows.append(("instead", "\n".join(plan.alternatives)))
    if plan.buildable:
        rows += _capacity(plan)
    memory = {name: float(size) for name, size in plan.memory.items() if size > 0}
    show(console, title, facts(rows), stacked_bar(memory))


def _status(plan: Plan) -> Text:
    style, words = {
        "supported": (
            "bold green",
            "supported by released TensorRT-LLM" + (" with our plugin" if plan.plugin else ""),
        ),
        "needs": ("bold yellow", "can be built; no released TensorRT-LLM serves it on a GPU"),
        "refused": ("bold red", "refused"),
    }[plan.status]
    return Text.assemble((words, style), (f"  rule {plan.rule}", "dim"))


def _capacity(plan: Plan) -> list[tuple[str, RenderableType]]:
    context, batch = plan.llm_args["max_seq_len"], plan.llm_args["max_batch_size"]
    rows: list[tuple[str, RenderableType]] = [
        ("backend", f"{plan.backend}, TensorRT-LLM {plan.trtllm_versions}"),
        ("image", plan.image),
        ("weights", amount(plan.weights_bytes)),
        ("set up for", f"{batch} sequences of {context:,} tokens"),
        ("would fit", f"{plan.max_concurrency} sequences of {context:,} tokens, "
                      f"or {batch} of {plan.max_context:,}"),
    ]  # fmt: skip
    if plan.estimate:
        guess = plan.estimate
        speed = (
            f"{guess.tpot_ms:.1f} ms a token, first token after {guess.ttft_ms:.0f} ms, "
            f"{guess.output_tokens_per_s:,.0f} output tokens/s"
        )
        rows += [("estimate", speed), ("", Text("; ".join(guess.assumptions), style="dim"))]
    return rows
