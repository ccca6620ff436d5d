"""`plan`: what would be built, whether it fits, who can run it, how fast, and what it costs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..build.planner import matrix
from ..build.planner import plan as planner
from ..build.planner.calibration import Measured, calibrated
from ..build.planner.efficiency import DEFAULT, Efficiency
from ..build.planner.money import MAX_TPOT_MS, Cost, at_objective, cost
from ..core.errors import BadInputError, RefusedError, UsageError
from ..model.architecture import Model
from ..model.catalog import gpu
from ..model.peers import PEERS, peer
from ..model.spec import Gpu, Plan, Quant, Workload
from ..sources.checkpoint_source import resolve


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. Without a format one is recommended. Raises `UsageError` for a price or an
    objective that is no number."""

    checkpoint: str
    workload: Workload
    gpu: str | None = None
    quant: str | None = None
    price: float | None = None
    max_tpot_ms: float = MAX_TPOT_MS
    optimize: str = "cost"
    calibrate_from: Path | None = None
    trtllm: str | None = None
    against: str | None = None

    def __post_init__(self) -> None:
        for option, value in (("--price", self.price), ("--max-tpot", self.max_tpot_ms)):
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{option} {value}: give a number")


@dataclass(frozen=True, slots=True)
class Rival:
    """A peer on the same GPUs in the same format, and how many times its output tokens a second
    ours are: each at the most sequences within the objective, and both at the peer's number."""

    model: str
    weights_bytes: int
    max_concurrency: int
    concurrency: int
    output_tokens_per_s: float
    times_at_best: float
    times_at_same: float


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan, what it costs, why it was chosen where no format was asked for, and the peer that it
    was to be compared with, or why it cannot be."""

    plan: Plan
    cost: Cost | None
    why: str
    rival: Rival | None = None
    no_rival: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `plan --json` prints it."""
        found = {
            **asdict(self.plan),
            "supported": self.plan.supported,
            "buildable": self.plan.buildable,
        }
        return found | {
            "cost": asdict(self.cost) if self.cost else None,
            "why": self.why or None,
            "against": asdict(self.rival) if self.rival else None,
            "not_against": self.no_rival or None,
        }


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
    if asked.quant is None:
        _require_no_single(asked)
    target, model = gpu(asked.gpu), _model(asked.checkpoint)
    if asked.quant is None:
        return _recommended(asked, model, target)
    quant = planner.quant_named(asked.quant)
    reached = _reached(asked, model, target, quant)
    planned = planner.Planner(model, asked.workload, reached, asked.trtllm)
    found = planned.plan(target, quant)
    money = cost(found, asked.workload, asked.price, asked.max_tpot_ms)
    rival = _rival(asked, model, target, quant, reached) if asked.against else None
    if isinstance(rival, str):
        return Answer(found, money, "", no_rival=rival)
    return Answer(found, money, "", rival)


def _require_no_single(asked: Question) -> None:
    if asked.calibrate_from is not None:
        raise UsageError("--calibrate-from holds for the --gpu and --quant that were load-tested")
    if asked.against is not None:
        raise UsageError("--against compares one --gpu and --quant; give both")


def _recommended(asked: Question, model: Model, target: Gpu) -> Answer:
    cells, aim = _cells(asked, model, [target]), asked.optimize
    chosen = matrix.best(cells, aim, asked.workload)
    if chosen is None and aim == "cost":  # no price is known: what is fastest is cheapest there
        aim = "throughput"
        chosen = matrix.best(cells, aim, asked.workload)
    if chosen is None:
        raise RefusedError(_none_recommended(model, asked.workload, target, cells))
    return Answer(chosen.plan, chosen.cost, matrix.why(chosen, cells, aim))


def _none_recommended(
    model: Model, workload: Workload, target: Gpu, cells: list[matrix.Cell]
) -> str:
    """Why no format can be recommended: each rule once, with the reason of its smallest format, and
    the first thing that works for each format."""
    formats: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    instead = []
    for cell in cells:
        plan, quant = cell.plan, cell.plan.quant["requested"]
        formats.setdefault(plan.rule, []).append(str(quant))
        reasons[plan.rule] = plan.reasons[0]
        text = next((t for t in plan.alternatives if t.startswith("--")), None)
        if text:
            instead.append(text if "--quant" in text else f"{text} --quant {quant}")
    why = " ".join(f"{', '.join(names)} (rule: {r}): {reasons[r]}" for r, names in formats.items())
    return (
        f"no format of {model.name} can be recommended on {workload.gpus} x {target.key}. {why} "
        f"What works instead: {'; '.join([*dict.fromkeys(instead), 'see plan --matrix'])}."
    )


def _model(name: str) -> Model:
    """The model of a checkpoint, a configuration or a known name, or a peer."""
    return peer(name) or resolve(name).model


def _rival(
    asked: Question, model: Model, target: Gpu, quant: Quant, reached: Efficiency
) -> Rival | str:
    """The peer that was asked for, on the same GPUs, or why there is no comparison. Both get as
    many sequences as have room for the requests' lengths (or for `--context`).

    Raises `UsageError` for an unknown peer.
    """
    assert asked.against is not None
    other = peer(asked.against)
    if other is None:
        raise UsageError(f"--against {asked.against!r}: known are {', '.join(PEERS)}")
    size = asked.workload
    size = replace(size, concurrency=None, context=size.context or size.isl + size.osl)
    planned = planner.Planner(model, size, reached, asked.trtllm)
    ours = planned.plan(target, quant)
    theirs = planner.Planner(other, size, reached, asked.trtllm).plan(target, quant)
    for one in (ours, theirs):
        if one.estimate is None:
            return f"{one.model} does not run there: {one.reasons[0]}"
    best, their_best = (at_objective(one, asked.max_tpot_ms) for one in (ours, theirs))
    if best is None or their_best is None:
        slow = (ours if best is None else theirs).model
        return f"{slow} takes more than {asked.max_tpot_ms:g} ms a token at any concurrency"
    same = planned.speed(target, quant).point(their_best.concurrency)
    return Rival(
        model=theirs.model,
        weights_bytes=theirs.weights_bytes,
        max_concurrency=theirs.max_concurrency,
        concurrency=their_best.concurrency,
        output_tokens_per_s=their_best.output_tokens_per_s,
        times_at_best=best.output_tokens_per_s / their_best.output_tokens_per_s,
        times_at_same=same.output_tokens_per_s / their_best.output_tokens_per_s,
    )


def compare(asked: Question) -> Matrix:
    """Every GPU (or the one that is asked for) and every format. Raises `UsageError` for what
    holds for one GPU and format only."""
    _require_no_single(asked)
    model = _model(asked.checkpoint)
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


def _reached(asked: Question, model: Model, target: Gpu, quant: Quant) -> Efficiency:
    """The efficiencies to plan with: the default ones, or those of one's own load test where the
    format can be served at all."""
    path = asked.calibrate_from
    planned = planner.Planner(model, asked.workload, trtllm=asked.trtllm)
    if path is None or planned.plan(target, quant).estimate is None:
        return DEFAULT
    from ..loadtest.report import read_report

    try:
        report = read_report(path)
        levels = [
            _measured(run)
            for run in report["runs"]
            if run.get("concurrency") and not run.get("errors")
        ]
        return calibrated(levels, planned.speed(target, quant))
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise BadInputError(
            f"{path}: cannot be used as a report of nemo-deploy loadtest --json: {error}"
        ) from error


def _measured(run: dict[str, Any]) -> Measured:
    """One level of a load test. The mean gap between tokens is that of the median request."""
    first, whole = float(run["ttft_ms"]["p50"]), float(run["e2e_ms"]["p50"])
    tokens = float(run["output_tokens_per_s"]) / float(run["requests_per_s"])
    if not tokens > 1:
        raise ValueError("requests of one token have no gaps between tokens")
    return Measured(int(run["concurrency"]), (whole - first) / (tokens - 1), first)
