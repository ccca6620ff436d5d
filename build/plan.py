"""The plan: what will be built, whether it fits, who can run it. From the configuration alone."""

from __future__ import annotations

from typing import Any, Final

from ..architecture import Model
from ..errors import RefusedError, UsageError
from ..models import gpus
from ..recipe import RECIPES, Recipe
from ..spec import QUANTS, Gpu, Plan, Quant, Workload
from . import hardware, int4, support
from .llm_args import llm_args
from .memory import STATE_DTYPE, Memory, memory
from .speed import DEFAULT, Efficiency, estimate

DEFAULT_CONTEXT: Final = 32768
DEFAULT_MAX_BATCH: Final = 64
TENSOR_PARALLEL_SIZES: Final = (1, 2, 4, 8)
"""Upstream's Nemotron-H: "TP has to be either 1, 2, 4 or 8"."""


def quant_named(name: str) -> Quant:
    """The format of that name. Raises `UsageError` that lists the known ones."""
    if name.lower() not in QUANTS:
        raise UsageError(f"unknown format {name!r}; known are {', '.join(QUANTS)}")
    return QUANTS[name.lower()]


def plan(
    model: Model,
    gpu: Gpu,
    quant: Quant,
    workload: Workload,
    reached: Efficiency = DEFAULT,
    trtllm: str | None = None,
) -> Plan:
    """Plan `model` in `quant` on `workload.gpus` of `gpu`.

    A refusal is a `Plan` too (`status` refused, with reasons and what works instead). `trtllm` is a
    version of TensorRT-LLM, by default the one that bundles are built for. Raises `UsageError` for
    a version that no rule was read for.
    """
    recipe = RECIPES[quant.key]
    runtime = support.runtime(trtllm)
    rule = support.rule_for(gpu, quant, recipe.quantized_roles(model), runtime.key)
    refusal: tuple[str, str, tuple[str, ...]] | None = None
    if rule.status == "refused":
        refusal = (rule.key, rule.reason.format(sm=gpu.sm), rule.alternatives)
    room = memory(model, recipe, gpu, workload.gpus)
    context, concurrency = _limits(model, room, workload)
    refusal = refusal or _unsplit(rule, model, recipe, workload.gpus)
    refusal = refusal or _misfit(model, gpu, quant, room, workload, context, concurrency)
    key, reason, alternatives = refusal or (rule.key, rule.reason, rule.alternatives)
    args: dict[str, Any] = {}
    if refusal is None:
        args = llm_args(
            max_batch_size=concurrency,
            max_seq_len=context,
            workload=workload,
            moe_backend=rule.moe_backend or runtime.moe_backend,
            kv_dtype=recipe.kv_dtype,
        )
    return Plan(
        model=model.name,
        gpu=gpu.key,
        gpus=workload.gpus,
        sm=gpu.sm,
        quant={"requested": quant.key, "effective": None if refusal else quant.key},
        status="refused" if refusal else rule.status,
        rule=key,
        reasons=(reason,),
        needs=() if refusal else rule.needs,
        alternatives=alternatives if refusal or rule.needs else (),
        backend=(rule.backend or runtime.backend) if refusal is None else "none",
        plugin="" if refusal else rule.plugin,
        image=runtime.image,
        trtllm_versions=runtime.trtllm_versions,
        tried=hardware.tried(rule, gpu),
        weights_bytes=recipe.weights_bytes(model),
        kv_bytes_per_token=model.kv_bytes_per_token(recipe.kv_dtype),
        state_bytes_per_sequence=model.state_bytes_per_sequence(STATE_DTYPE),
        memory=room.terms,
        free_bytes=room.free,
        max_concurrency=room.max_concurrency(context),
        max_context=min(room.max_context(concurrency), max(model.max_positions, context))
        if concurrency
        else 0,
        llm_args=args,
        estimate=None
        if refusal
        else estimate(
            model, recipe, gpu, workload, concurrency, room.max_concurrency(context), reached
        ),
    )


def require_buildable(plan: Plan) -> None:
    """Raise `RefusedError` with the plan's reasons and alternatives when it is a refusal."""
    if plan.buildable:
        return
    instead = "; ".join(plan.alternatives) or "none found among the known GPUs and formats"
    raise RefusedError(
        f"{plan.model} as {plan.quant['requested']} on {plan.gpus} x {plan.gpu} is refused "
        f"(rule: {plan.rule}). {' '.join(plan.reasons)} What works instead: {instead}."
    )


def _limits(model: Model, room: Memory, workload: Workload) -> tuple[int, int]:
    """Tokens a sequence may have, and sequences at once, that the server is set up for."""
    context = workload.context or min(model.max_positions, DEFAULT_CONTEXT)
    fitting = room.max_concurrency(context)
    return context, workload.concurrency or min(fitting, DEFAULT_MAX_BATCH)


def _unsplit(
    rule: support.Rule, model: Model, recipe: Recipe, count: int
) -> tuple[str, str, tuple[str, ...]] | None:
    """Rule, reason and alternatives where the plugin cannot split the experts, else None."""
    if not rule.plugin or count not in TENSOR_PARALLEL_SIZES:
        return None
    problem = int4.split_problem(model, recipe, count)
    if problem is None:
        return None
    works = [n for n in TENSOR_PARALLEL_SIZES if not int4.split_problem(model, recipe, n)]
    reason = f"The INT4 plugin splits layers by expert: {problem}."
    return "expert-split", reason, tuple(f"--gpus {n}" for n in works)


def _misfit(
    model: Model,
    gpu: Gpu,
    quant: Quant,
    room: Memory,
    workload: Workload,
    context: int,
    concurrency: int,
) -> tuple[str, str, tuple[str, ...]] | None:
    """Rule, reason and alternatives when the workload does not fit, else None."""
    if workload.gpus not in TENSOR_PARALLEL_SIZES:
        sizes = ", ".join(map(str, TENSOR_PARALLEL_SIZES))
        reason = f"TensorRT-LLM runs Nemotron-H on {sizes} GPUs, not on {workload.gpus}."
        return "gpus", reason, ("--gpus 1", "--gpus 2")
    fitting = room.max_concurrency(context)
    if fitting >= max(1, concurrency):
        return None
    weights = room.terms["weights"] / 1e9
    if not room.free or not fitting:
        reason = (
            f"The {gpu.name} has {gpu.memory_bytes / 1e9:.1f} GB. Weights take {weights:.1f} GB, "
            f"and {room.free / 1e9:.1f} GB are left for caches, which is not one sequence of "
            f"{context} tokens."
        )
    else:
        reason = (
            f"{fitting} sequences of {context} tokens fit beside {weights:.1f} GB of weights, not "
            f"{concurrency}; {concurrency} could have {room.max_context(concurrency)} tokens each."
        )
        smaller = (f"--concurrency {fitting}", f"--context {room.max_context(concurrency)}")
        return "memory", reason, smaller
    return "memory", reason, _fitting_alternatives(model, gpu, quant, workload, context)


def _fitting_alternatives(
    model: Model, gpu: Gpu, quant: Quant, workload: Workload, context: int
) -> tuple[str, ...]:
    """What does fit: another format on this GPU first, then this format on the smallest GPUs."""
    found = []
    count = workload.concurrency or 1
    for other in gpus().values():
        for key, recipe in RECIPES.items():
            if support.rule_for(other, QUANTS[key]).status == "refused":
                continue
            if memory(model, recipe, other, workload.gpus).max_concurrency(context) >= count:
                distance = (other.key != gpu.key, key != quant.key, other.memory_bytes)
                found.append((distance, f"--gpu {other.key} --quant {key}"))
    return tuple(text for _, text in sorted(found)[:4])
