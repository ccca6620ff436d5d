"""All GPUs and formats side by side, and which of them to take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ...core.errors import UsageError
from ...model.architecture import Model
from ...model.catalog import gpus
from ...model.spec import QUANTS, Gpu, Plan, Workload
from . import hardware
from .efficiency import DEFAULT, Efficiency
from .money import MAX_TPOT_MS, Cost, at_objective, cost
from .plan import Planner

OPTIMIZE: Final = {
    "latency": "least time per token of a single sequence",
    "throughput": "most output tokens a second and GPU within the objective",
    "cost": "least money a request within the objective",
}
"""What `--optimize` may be."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One GPU and format. `tried` says whether what serves it has run on such a GPU: upstream's
    own counts as tried, our plugin only once the record has a run in which it served a model."""

    plan: Plan
    cost: Cost | None
    tpot_alone_ms: float | None
    tokens_per_s_per_gpu: float | None
    tried: bool

    @property
    def eligible(self) -> bool:
        """Whether it may be recommended."""
        return self.plan.supported and self.tokens_per_s_per_gpu is not None and self.tried


def cells(
    model: Model,
    workload: Workload,
    only: Iterable[Gpu] | None = None,
    price: float | None = None,
    max_tpot_ms: float = MAX_TPOT_MS,
    reached: Efficiency = DEFAULT,
    trtllm: str | None = None,
) -> list[Cell]:
    """Every format on every GPU (or on `only` these), in the order they are known."""
    planner = Planner(model, workload, reached, trtllm)
    return [
        _cell(planner.plan(gpu, quant), workload, price, max_tpot_ms)
        for gpu in (gpus().values() if only is None else only)
        for quant in QUANTS.values()
    ]


def _cell(found: Plan, workload: Workload, price: float | None, max_tpot_ms: float) -> Cell:
    point = at_objective(found, max_tpot_ms)
    return Cell(
        plan=found,
        cost=cost(found, workload, price, max_tpot_ms),
        tpot_alone_ms=found.estimate.curve[0].tpot_ms if found.estimate else None,
        tokens_per_s_per_gpu=point.output_tokens_per_s / found.gpus if point else None,
        tried=not found.plugin
        or any(run.sm == found.sm and run.served_by for run in hardware.runs()),
    )


def best(found: Iterable[Cell], optimize: str, workload: Workload) -> Cell | None:
    """The best that may be recommended, or None. Raises `UsageError` for an unknown aim."""
    if optimize not in OPTIMIZE:
        raise UsageError(f"--optimize {optimize!r}: known are {', '.join(OPTIMIZE)}")
    eligible = [cell for cell in found if cell.eligible]
    if optimize == "cost":
        eligible = [cell for cell in eligible if cell.cost]

    def rank(cell: Cell) -> float:
        if optimize == "latency":
            return cell.tpot_alone_ms or 0.0
        if optimize == "throughput":
            return -(cell.tokens_per_s_per_gpu or 0.0)
        assert cell.cost is not None, "filtered above"
        per_token = cell.cost.input_per_million * workload.isl
        return per_token + cell.cost.output_per_million * workload.osl

    return min(eligible, key=rank, default=None)


def why(chosen: Cell, others: Iterable[Cell], optimize: str) -> str:
    """Why `chosen`, in one or two sentences: what it is best at, and what was left out."""
    found = chosen.plan
    text = f"{found.quant['requested']} on {found.gpu}: {OPTIMIZE[optimize]} (estimated)."
    untried = [
        f"{cell.plan.quant['requested']} on {cell.plan.gpu}"
        for cell in others
        if not cell.tried and cell.plan.supported
    ]
    if untried:
        some = ", ".join(untried[:3]) + (" and others" if len(untried) > 3 else "")
        text += f" Not considered, since our plugin has not served on such a GPU yet: {some}."
    return text
