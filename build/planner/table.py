"""The support table of the README: every GPU and format, for one model on one GPU."""

from __future__ import annotations

from typing import Final

from ...model.architecture import Model
from ...model.catalog import gpus
from ...model.format_request import default_quants
from ...model.formats import QUANTS
from ...model.spec import Plan, Workload
from .plan import Planner

_REFUSALS: Final = {"memory": "too large", "nvfp4-image": "no image²"}


def support_table(model: Model) -> str:
    """A Markdown table: one row a GPU, one column a format, as `plan` answers."""
    lines = [
        "| GPU | " + " | ".join(QUANTS) + " |",
        "| --- |" + " --- |" * len(QUANTS),
    ]
    planner, quants = Planner(model, Workload()), default_quants(model)
    for gpu in gpus().values():
        cells = [_cell(planner.plan(gpu, quant)) for quant in quants]
        lines.append(f"| {gpu.name} (`{gpu.key}`) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(result: Plan) -> str:
    if result.buildable:
        marks = ["¹"] * bool(result.engine.plugin) + ["³"] * bool(result.concessions)
        return "yes" + " ".join(marks)
    return _REFUSALS.get(result.rule, f"no: SM{result.sm}")
