"""All GPUs and formats side by side, and which of them to take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ...core.errors import UsageError
from ...model.architecture import Model
from ...model.catalog import gpus
from ...model.formats import Quant
from ...model.spec import Gpu, Plan, Workload
from ..engines.base import PlannedEngine
from ..engines.registry import planned as engine_named
from .efficiency import DEFAULT, Efficiency
from .money import MAX_TPOT_MS, Cost, at_objective, cost
from .offers import Offer, offers, preferred
from .plan import Planner
from .verdict import Judge

OPTIMIZE: Final = {
    "latency": "least time per token of a single sequence",
    "throughput": "most output tokens a second and GPU within the objective",
    "cost": "least money a request within the objective",
}
"""What `--optimize` may be."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One GPU and format: its cost, the time per token of a single sequence, and output tokens a
    second of each GPU, where they are known. `offers` are those of all engines."""

    plan: Plan
    offers: tuple[Offer, ...]
    cost: Cost | None
    tpot_alone_ms: float | None
    tokens_per_s_per_gpu: float | None

    @property
    def eligible(self) -> bool:
        """Whether it may be recommended: what has not served on such a GPU yet may not."""
        speed_is_known = self.tokens_per_s_per_gpu is not None
        return self.plan.supported and speed_is_known and self.plan.engine.proven


def cells(
    model: Model,
    workload: Workload,
    only: Iterable[Gpu] | None = None,
    price: float | None = None,
    max_tpot_ms: float = MAX_TPOT_MS,
    engine: PlannedEngine | None = None,
    efficiency: Efficiency = DEFAULT,
    stored: Quant | None = None,
    each_preferred: bool = False,
) -> list[Cell]:
    """Every format on every GPU (or on `only` these), in the order they are known; of a quantized
    checkpoint the one in which it is `stored`. All are planned for `engine`, by default the default
    one; with `each_preferred`, each for the engine that is preferred there."""
    usual = engine or engine_named()
    judge, planners = Judge(model, stored), dict[str, Planner]()

    def cell(gpu: Gpu, quant: Quant) -> Cell:
        found = offers(judge, gpu, quant, workload, usual)
        chosen = engine_named(preferred(found)) if each_preferred else usual
        if chosen.name not in planners:
            planners[chosen.name] = Planner(model, workload, chosen, efficiency, stored)
        planned = planners[chosen.name].plan(gpu, quant)
        return _cell(planned, found, workload, price, max_tpot_ms)

    return [
        cell(gpu, quant)
        for gpu in (gpus().values() if only is None else only)
        for quant in judge.quants
    ]


def _cell(
    plan: Plan,
    found: tuple[Offer, ...],
    workload: Workload,
    price: float | None,
    max_tpot_ms: float,
) -> Cell:
    point = at_objective(plan, max_tpot_ms)
    return Cell(
        plan=plan,
        offers=found,
        cost=cost(plan, workload, price, max_tpot_ms),
        tpot_alone_ms=plan.estimate.curve[0].tpot_ms if plan.estimate else None,
        tokens_per_s_per_gpu=point.output_tokens_per_s / plan.gpus if point else None,
    )


def require_aim(optimize: str) -> None:
    """Raise `UsageError` for an unknown aim."""
    if optimize not in OPTIMIZE:
        raise UsageError(f"--optimize {optimize!r}: known are {', '.join(OPTIMIZE)}")


def best(cells: Iterable[Cell], optimize: str, workload: Workload) -> Cell | None:
    """The best that may be recommended, or None."""
    eligible = [cell for cell in cells if cell.eligible]
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
    plan = chosen.plan
    text = f"{plan.quant['requested']} on {plan.gpu}: {OPTIMIZE[optimize]} (estimated)."
    unproven = [
        f"{cell.plan.quant['requested']} on {cell.plan.gpu}"
        for cell in others
        if not cell.plan.engine.proven and cell.plan.supported
    ]
    if unproven:
        some = ", ".join(unproven[:3]) + (" and others" if len(unproven) > 3 else "")
        text += f" Not considered, since our plugin has not served on such a GPU yet: {some}."
    return text
