"""`plan`: what would be built, whether it fits, who can run it, how fast, and what it costs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..architecture import Model
from ..build import matrix
from ..build import plan as planner
from ..build.money import MAX_TPOT_MS, Cost, cost
from ..build.speed import DEFAULT, Efficiency, calibrated
from ..errors import BadInputError, RefusedError, UsageError
from ..models import gpu
from ..spec import Gpu, Plan, Workload
from .source import resolve


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. Without a format one is recommended."""

    checkpoint: str
    workload: Workload
    gpu: str | None = None
    quant: str | None = None
    price: float | None = None
    max_tpot_ms: float = MAX_TPOT_MS
    optimize: str = "cost"
    calibrate_from: Path | None = None
    trtllm: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan, what it costs, and why it was chosen where no format was asked for."""

    plan: Plan
    cost: Cost | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """As `plan --json` prints it."""
        found = {
            **asdict(self.plan),
            "supported": self.plan.supported,
            "buildable": self.plan.buildable,
        }
        return found | {"cost": asdict(self.cost) if self.cost else None, "why": self.why or None}


@dataclass(frozen=True, slots=True)
class Matrix:
    """All GPUs and formats, and the best of them."""

    model: str
    workload: Workload
    optimize: str
    cells: list[matrix.Cell]
    best: matrix.Cell | None
    why: str

    def to_json(self) -> dict[str, Any]:
        """As `plan --matrix --json` prints it."""
        return {
            "model": self.model,
            "workload": asdict(self.workload),
            "optimize": self.optimize,
            "best": _name(self.best) if self.best else None,
            "why": self.why or None,
            "cells": [
                {
                    **_name(cell),
                    "supported": cell.plan.supported,
                    "rule": cell.plan.rule,
                    "reasons": list(cell.plan.reasons),
                    "alternatives": list(cell.plan.alternatives),
                    "tried": cell.tried,
                    "max_context": cell.plan.max_context,
                    "max_concurrency": cell.plan.max_concurrency,
                    "tpot_ms": cell.tpot_alone_ms,
                    "output_tokens_per_s_per_gpu": cell.tokens_per_s_per_gpu,
                    "cost": asdict(cell.cost) if cell.cost else None,
                }
                for cell in self.cells
            ],
        }


def plan(asked: Question) -> Answer:
    """Plan one GPU and format, or recommend a format for the GPU. A refusal is returned, not
    raised; `RefusedError` where no format can be recommended, `UsageError` without a GPU."""
    if asked.gpu is None:
        raise UsageError("give --gpu, or --matrix to see all of them")
    target, model = gpu(asked.gpu), resolve(asked.checkpoint).model
    if asked.quant is not None:
        quant = planner.quant_named(asked.quant)
        reached = _reached(asked, model)
        found = planner.plan(model, target, quant, asked.workload, reached, asked.trtllm)
        return Answer(found, cost(found, asked.workload, asked.price, asked.max_tpot_ms), "")
    cells = _cells(asked, model, [target])
    aim = asked.optimize
    chosen = matrix.best(cells, aim, asked.workload)
    if chosen is None and aim == "cost":  # no price is known: what is fastest is cheapest there
        aim = "throughput"
        chosen = matrix.best(cells, aim, asked.workload)
    if chosen is None:
        reasons = "; ".join(f"{c.plan.quant['requested']}: {c.plan.reasons[0]}" for c in cells)
        where = f"{asked.workload.gpus} x {target.key}"
        raise RefusedError(
            f"no format of {model.name} can be recommended on {where}. {reasons} What works "
            "instead: another GPU, see nemo-deploy plan --matrix."
        )
    return Answer(chosen.plan, chosen.cost, matrix.why(chosen, cells, aim))


def compare(asked: Question) -> Matrix:
    """Every GPU (or the one that is asked for) and every format."""
    model = resolve(asked.checkpoint).model
    only = [gpu(asked.gpu)] if asked.gpu else None
    cells = _cells(asked, model, only)
    best = matrix.best(cells, asked.optimize, asked.workload)
    why = matrix.why(best, cells, asked.optimize) if best else ""
    return Matrix(model.name, asked.workload, asked.optimize, cells, best, why)


def _cells(asked: Question, model: Model, only: list[Gpu] | None) -> list[matrix.Cell]:
    return matrix.cells(
        model, asked.workload, only, asked.price, asked.max_tpot_ms, trtllm=asked.trtllm
    )


def _name(cell: matrix.Cell) -> dict[str, Any]:
    return {"gpu": cell.plan.gpu, "gpus": cell.plan.gpus, "quant": cell.plan.quant["requested"]}


def _reached(asked: Question, model: Model) -> Efficiency:
    """The efficiencies to plan with: the default ones, or those of one's own load test."""
    if asked.calibrate_from is None:
        return DEFAULT
    assert asked.gpu is not None
    assert asked.quant is not None
    quant = planner.quant_named(asked.quant)
    estimated = planner.plan(model, gpu(asked.gpu), quant, asked.workload).estimate
    if estimated is None:
        return DEFAULT
    try:
        report = json.loads(asked.calibrate_from.read_text(encoding="utf-8"))
        levels = [
            (int(run["concurrency"]), float(run["itl_ms"]["p50"]), float(run["ttft_ms"]["p50"]))
            for run in report["runs"]
            if run.get("concurrency") and not run.get("errors")
        ]
        return calibrated(levels, estimated)
    except OSError as error:
        raise BadInputError(f"{asked.calibrate_from}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInputError(
            f"{asked.calibrate_from}: cannot be used as a report of nemo-deploy loadtest --json: "
            f"{error}"
        ) from error
