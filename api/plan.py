"""`plan`: what would be built, whether it fits, who can run it, how fast, and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..build.engines.base import PlannedEngine
from ..build.engines.registry import AUTO, require_known
from ..build.engines.registry import DEFAULT as DEFAULT_ENGINE
from ..build.engines.registry import planned as engine_named
from ..build.planner import matrix
from ..build.planner.calibration import Measured, calibrated
from ..build.planner.efficiency import DEFAULT, Efficiency
from ..build.planner.money import MAX_TPOT_MS, Cost, at_objective, cost
from ..build.planner.offers import Offer, hint, offers, preferred
from ..build.planner.plan import Planner
from ..build.planner.verdict import Judge
from ..core.errors import BadInputError, RefusedError, UsageError
from ..model.architecture import Model
from ..model.catalog import DEFAULT_CHECKPOINT
from ..model.catalog import gpu as gpu_named
from ..model.format_request import requested
from ..model.formats import Quant
from ..model.peers import PEERS, peer
from ..model.spec import Gpu, Plan, Workload
from ..sources.checkpoint_source import Source, resolve
from .plan_result import MatrixCell, MatrixChoice, MatrixResult, PeerComparison, PlanResult
from .stored_format import as_stored, format_for, require_format_alone


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What to plan. Without a format, one is recommended.

    `engine` is a name in the engines' registry or `auto`, `trtllm` a version of TensorRT-LLM and
    `vllm` one of vLLM. `against` names a peer to compare with. Raises `UsageError` for an unknown
    engine, and for a price or an objective that is not a finite number.
    """

    checkpoint: str
    workload: Workload
    gpu: str | None = None
    quant: str | None = None
    price: float | None = None
    max_tpot_ms: float = MAX_TPOT_MS
    optimize: str = "cost"
    group_size: int | None = None
    recipe: str | None = None
    calibrate_from: Path | None = None
    engine: str = DEFAULT_ENGINE
    trtllm: str | None = None
    vllm: str | None = None
    against: str | None = None

    def __post_init__(self) -> None:
        require_known(self.engine)
        for option, value in (("--price", self.price), ("--max-tpot", self.max_tpot_ms)):
            if value is not None and not math.isfinite(value):
                raise UsageError(f"{option} {value}: give a number")

    def at_version(self, name: str) -> PlannedEngine:
        """The engine of that name, at the version that was asked for. Raises `UsageError` for a
        version of another engine, and for one without rules."""
        engine = engine_named(name)
        for option, version in (("--trtllm", self.trtllm), ("--vllm", self.vllm)):
            if version is None:
                continue
            if option != engine.version_option:
                raise UsageError(
                    f"{option} {version} is a version of another engine than --engine {name}"
                )
            engine = engine.at(version)
        return engine


def build_command(checkpoint: str, plan: Plan) -> str:
    """The command that builds what `plan` plans, but for its engine."""
    model = "" if checkpoint == DEFAULT_CHECKPOINT else f" --checkpoint {checkpoint}"
    count = f" --gpus {plan.gpus}" if plan.gpus > 1 else ""
    return f"nemo-deploy build{model} --gpu {plan.gpu}{count} --quant {plan.quant['requested']}"


def _result(
    request: PlanRequest,
    plan: Plan,
    found: tuple[Offer, ...],
    money: Cost | None,
    why: str | None = None,
    comparison: PeerComparison | str | None = None,
) -> PlanResult:
    part = plan.engine
    compares = plan.status != "compared"
    command = build_command(request.checkpoint, plan)
    return PlanResult(
        **{field.name: getattr(plan, field.name) for field in fields(plan)},
        backend=part.backend,
        plugin=part.plugin,
        image=part.image,
        trtllm_versions=part.versions,
        tried=part.evidence,
        needs=part.needs,
        llm_args=part.args,
        env=part.env,
        supported=plan.supported,
        buildable=plan.buildable,
        cost=money,
        why=why,
        against=None if isinstance(comparison, str) else comparison,
        not_against=comparison if isinstance(comparison, str) else None,
        engines=found if compares else (),
        engine_hint=hint(found, part.name, command) if compares else None,
    )


def plan(
    checkpoint: str = DEFAULT_CHECKPOINT,
    *,
    gpu: str,
    quant: str | None = None,
    gpus: int = 1,
    context: int | None = None,
    concurrency: int | None = None,
    max_num_tokens: int | None = None,
    mamba_state: str | None = None,
    kv_cache: str | None = None,
    isl: int = 1024,
    osl: int = 256,
    price: float | None = None,
    max_tpot_ms: float = MAX_TPOT_MS,
    optimize: str = "cost",
    group_size: int | None = None,
    recipe: str | None = None,
    engine: str = DEFAULT_ENGINE,
    trtllm: str | None = None,
    vllm: str | None = None,
    against: str | None = None,
) -> PlanResult:
    """Plan one GPU and format, or recommend a format for the GPU.

    Args:
        checkpoint: `tiny`, a local directory or `config.json`, a known model, or a repository.
        gpu: The GPU, for example `h100`.
        quant: The format: `bf16`, `fp8`, `int8`, `int4` or `nvfp4`; None recommends one.
        gpus: Number of GPUs that share the model.
        context: Longest context in tokens; by default the longest that fits.
        concurrency: Number of requests at once.
        max_num_tokens: Tokens of one step of the server; by default 8192, fewer where memory is
            short.
        mamba_state: `float32`, `bfloat16` or `float16`; by default `float32`, 16 bits where memory
            is short.
        kv_cache: `bf16` or `fp8`; by default as the format says, `fp8` where memory is short.
        isl: Input tokens per request.
        osl: Output tokens per request.
        price: USD per GPU hour instead of the list price.
        max_tpot_ms: Most milliseconds per output token.
        optimize: What a recommendation is best at: `latency`, `throughput` or `cost`.
        group_size: Weights that share a scale, for INT4 and INT8; 0 for whole rows of INT8.
        recipe: `published`, `conservative`, `aggressive` or a YAML file; by default the one that
            was published for the model, else `conservative`.
        engine: What generates tokens in production: `tensorrt-llm`, `vllm`, or `auto` for the
            first of them that needs nothing unproven. `sglang` is planned only.
        trtllm: A version of TensorRT-LLM.
        vllm: A version of vLLM.
        against: A model of another family to compare with.

    A refusal is returned, not raised. Raises `RefusedError` where no format can be recommended,
    `UsageError` for an unknown name or value, `BadInputError` for a checkpoint that cannot be used.
    """
    return answer(
        PlanRequest(
            checkpoint,
            Workload(
                context,
                concurrency,
                isl,
                osl,
                gpus,
                max_num_tokens=max_num_tokens,
                mamba_state=mamba_state,
                kv_cache=kv_cache,
            ),
            gpu=gpu,
            quant=quant,
            price=price,
            max_tpot_ms=max_tpot_ms,
            optimize=optimize,
            group_size=group_size,
            recipe=recipe,
            engine=engine,
            trtllm=trtllm,
            vllm=vllm,
            against=against,
        )
    )


def answer(request: PlanRequest) -> PlanResult:
    """As `plan`, for a request."""
    if request.gpu is None:
        raise UsageError("give --gpu, or --matrix to see all of them")
    matrix.require_aim(request.optimize)
    target = gpu_named(request.gpu)
    wanted = require_format_alone(request.quant, request.recipe, request.group_size)
    (model, source), why = _model(request.checkpoint), None
    stored = _stored(source)
    if wanted is None and stored is None and model.planned_only is not None:
        wanted, why = (
            requested("bf16"),
            "what is never built is planned unquantized without --quant",
        )
    if source is not None:
        quant = format_for(source, wanted)
    else:
        quant = wanted.for_model(model) if wanted else None
    if quant is None:
        _require_no_single(request)
        return _recommended(request, model, target)
    engine, found = _engine(request, model, target, quant, stored)
    efficiency = _efficiency(request, model, target, quant, engine)
    planner = Planner(model, request.workload, engine, efficiency, stored)
    planned = planner.plan(target, quant)
    planned = as_stored(planned, source, engine) if source else planned
    money = cost(planned, request.workload, request.price, request.max_tpot_ms)
    comparison = (
        _compared(request, model, target, quant, efficiency, engine) if request.against else None
    )
    return _result(request, planned, found, money, why, comparison)


def _engine(
    request: PlanRequest, model: Model, gpu: Gpu, quant: Quant, stored: Quant | None
) -> tuple[PlannedEngine, tuple[Offer, ...]]:
    """The engine to plan for, and what all of them offer."""
    judge, size = Judge(model, stored), request.workload
    if request.engine != AUTO:
        engine = request.at_version(request.engine)
        return engine, offers(judge, gpu, quant, size, engine)
    found = offers(judge, gpu, quant, size)
    return request.at_version(preferred(found)), found


def _require_no_single(request: PlanRequest) -> None:
    if request.calibrate_from is not None:
        raise UsageError("--calibrate-from holds for the --gpu and --quant that were load-tested")
    if request.against is not None:
        raise UsageError("--against compares one --gpu and --quant; give both")
    if request.group_size is not None or request.recipe is not None:
        raise UsageError("--group-size and --recipe belong to one --quant; give it, too")


def _recommended(request: PlanRequest, model: Model, target: Gpu) -> PlanResult:
    cells, aim = _cells(request, model, [target]), request.optimize
    chosen = matrix.best(cells, aim, request.workload)
    if chosen is None and aim == "cost":  # no price is known: what is fastest is cheapest there
        aim = "throughput"
        chosen = matrix.best(cells, aim, request.workload)
    if chosen is None:
        raise RefusedError(_none_recommended(model, request.workload, target, cells))
    why = matrix.why(chosen, cells, aim)
    return _result(request, chosen.plan, chosen.offers, chosen.cost, why)


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


def _model(name: str) -> tuple[Model, Source | None]:
    """The model of a checkpoint, a configuration or a known name, or a peer; and its source.

    Raises `BadInputError` for a checkpoint that differs from its configuration. A model that is
    planned only is planned from its configuration, whatever is stored.
    """
    if known := peer(name):
        return known, None
    source = resolve(name)
    if source.checkpoint is not None and source.model.planned_only is None:
        source.checkpoint.require_agreement()
    return source.model, source


def _stored(source: Source | None) -> Quant | None:
    """The format that the weights have already; None where they can be quantized."""
    return source.stored.quant if source and source.stored else None


def _compared(
    request: PlanRequest,
    model: Model,
    target: Gpu,
    quant: Quant,
    efficiency: Efficiency,
    engine: PlannedEngine,
) -> PeerComparison | str:
    """The comparison with the requested peer on the same GPUs, or why there is none. Both get as
    many sequences as have room for the requests' lengths (or for `--context`).

    Raises `UsageError` for an unknown peer.
    """
    assert request.against is not None
    other = peer(request.against)
    if other is None:
        raise UsageError(f"--against {request.against!r}: known are {', '.join(PEERS)}")
    size = request.workload
    size = replace(size, concurrency=None, context=size.context or size.isl + size.osl)
    planned = Planner(model, size, engine, efficiency)
    ours = planned.plan(target, quant)
    same = requested(quant.key).for_model(other)
    theirs = Planner(other, size, engine, efficiency).plan(target, same)
    for one in (ours, theirs):
        if one.estimate is None:
            return f"{one.model} does not run there: {one.reasons[0]}"
    best, their_best = (at_objective(one, request.max_tpot_ms) for one in (ours, theirs))
    if best is None or their_best is None:
        slow = (ours if best is None else theirs).model
        return f"{slow} takes more than {request.max_tpot_ms:g} ms a token at any concurrency"
    at_same = planned.speed(target, quant, ours.serving).point(their_best.concurrency)
    return PeerComparison(
        model=theirs.model,
        weights_bytes=theirs.weights_bytes,
        max_concurrency=theirs.max_concurrency,
        concurrency=their_best.concurrency,
        output_tokens_per_s=their_best.output_tokens_per_s,
        times_at_best=best.output_tokens_per_s / their_best.output_tokens_per_s,
        times_at_same=at_same.output_tokens_per_s / their_best.output_tokens_per_s,
    )


def compare(request: PlanRequest) -> MatrixResult:
    """Every GPU (or the requested one) and every format. Raises `UsageError` for options that are
    for one GPU and format only."""
    _require_no_single(request)
    matrix.require_aim(request.optimize)
    model, source = _model(request.checkpoint)
    only = [gpu_named(request.gpu)] if request.gpu else None
    stored = _stored(source)
    cells = _cells(request, model, only, stored)
    best = matrix.best(cells, request.optimize, request.workload)
    return MatrixResult(
        model=model.name,
        workload=request.workload,
        engine=request.engine,
        optimize=request.optimize,
        best=_choice(best) if best else None,
        why=matrix.why(best, cells, request.optimize) if best else None,
        cells=tuple(map(_matrix_cell, cells)),
    )


def _cells(
    request: PlanRequest, model: Model, only: list[Gpu] | None, stored: Quant | None = None
) -> list[matrix.Cell]:
    return matrix.cells(
        model,
        request.workload,
        only,
        request.price,
        request.max_tpot_ms,
        None if request.engine == AUTO else request.at_version(request.engine),
        stored=stored,
        each_preferred=request.engine == AUTO,
    )


def _choice(cell: matrix.Cell) -> MatrixChoice:
    return MatrixChoice(cell.plan.gpu, cell.plan.gpus, str(cell.plan.quant["requested"]))


def _matrix_cell(cell: matrix.Cell) -> MatrixCell:
    plan, choice = cell.plan, _choice(cell)
    return MatrixCell(
        gpu=choice.gpu,
        gpus=choice.gpus,
        quant=choice.quant,
        engine=plan.engine.name,
        others=tuple(
            offer.engine
            for offer in cell.offers
            if offer.ready and offer.engine != plan.engine.name
        ),
        status=plan.status,
        supported=plan.supported,
        served=plan.estimate is not None,
        rule=plan.rule,
        reasons=plan.reasons,
        alternatives=plan.alternatives,
        tried=plan.engine.proven,
        concessions=plan.concessions,
        concurrency=plan.concurrency,
        max_context=plan.max_context,
        max_concurrency=plan.max_concurrency,
        tpot_ms=cell.tpot_alone_ms,
        output_tokens_per_s_per_gpu=cell.tokens_per_s_per_gpu,
        cost=cell.cost,
    )


def _efficiency(
    request: PlanRequest, model: Model, target: Gpu, quant: Quant, engine: PlannedEngine
) -> Efficiency:
    """The efficiencies to plan with: the default ones, or those of one's own load test where the
    format can be served at all."""
    path = request.calibrate_from
    if path is None:
        return DEFAULT
    planner = Planner(model, request.workload, engine)
    planned = planner.plan(target, quant)
    if planned.estimate is None:
        return DEFAULT
    from ..loadtest.saved_report import read_report

    try:
        report = read_report(path)
        levels = [
            _measured(run)
            for run in report["runs"]
            if run.get("concurrency") and not run.get("errors")
        ]
        return calibrated(levels, planner.speed(target, quant, planned.serving))
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
