"""The support table of the README: every GPU, format and engine, for one model on one GPU."""

from __future__ import annotations

from typing import Final

from ...model.architecture import Model
from ...model.catalog import gpus
from ...model.format_request import default_quants
from ...model.formats import QUANTS
from ...model.spec import Plan, Workload
from ..engines.registry import ENGINES
from .plan import Planner

_REFUSALS: Final = {"memory": "too large", "nvfp4-image": "no image²"}


def support_table(model: Model) -> str:
    """A Markdown table: one row a GPU, one column a format, as `plan` answers for each engine."""
    lines = ["| GPU | " + " | ".join(QUANTS) + " |", "| --- |" + " --- |" * len(QUANTS)]
    planners = [Planner(model, Workload(), make(None)) for make in ENGINES.values()]
    for gpu in gpus().values():
        cells = [
            _cell([planner.plan(gpu, quant) for planner in planners])
            for quant in default_quants(model)
        ]
        lines.append(f"| {gpu.name} (`{gpu.key}`) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(plans: list[Plan]) -> str:
    """The answers of all engines, once where they are the same."""
    answers = list(map(_answer, plans))
    return answers[0] if len(set(answers)) == 1 else " / ".join(answers)


def _answer(result: Plan) -> str:
    if result.buildable:
        marks = ["¹"] * bool(result.engine.plugin) + ["³"] * bool(result.concessions)
        return "yes" + " ".join(marks)
    return _REFUSALS.get(result.rule, f"no: SM{result.sm}")
