"""The plan: what will be built, whether it fits, who can run it. From the configuration alone."""

from __future__ import annotations

from typing import Any

from ...core.errors import RefusedError, UsageError
from ...model.architecture import Model
from ...model.recipe import RECIPES
from ...model.spec import QUANTS, Gpu, Plan, Quant, Workload
from ..engines.tensorrt_llm.arguments import llm_args
from . import hardware, support
from .efficiency import DEFAULT, Efficiency
from .memory import STATE_DTYPE
from .speed import Speed, estimate
from .verdict import Judge, Verdict, known_context


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
    return Planner(model, workload, reached, trtllm).plan(gpu, quant)


class Planner:
    """Plans one model for one workload, on any GPU and in any format."""

    def __init__(
        self,
        model: Model,
        workload: Workload,
        reached: Efficiency = DEFAULT,
        trtllm: str | None = None,
    ) -> None:
        self.model, self.workload, self.reached = model, workload, reached
        self.runtime = support.runtime(trtllm)
        self.judge = Judge(model)

    def speed(self, gpu: Gpu, quant: Quant) -> Speed:
        """How fast that is, whether or not it fits."""
        held = self.judge.held(quant.key)
        return Speed(held, RECIPES[quant.key], gpu, self.workload, self.reached)

    def plan(self, gpu: Gpu, quant: Quant) -> Plan:
        """The plan for these GPUs and this format."""
        model, workload, runtime = self.model, self.workload, self.runtime
        recipe = RECIPES[quant.key]
        found = self.judge.verdict(gpu, quant, workload, runtime)
        rule, room, refusal = found.rule, found.room, found.refusal
        options = refusal.options if refusal else rule.alternatives if rule.needs else ()
        return Plan(
            model=model.name,
            gpu=gpu.key,
            gpu_name=gpu.name,
            gpus=workload.gpus,
            sm=gpu.sm,
            quant={"requested": quant.key, "effective": None if refusal else quant.key},
            status="refused" if refusal else rule.status,
            rule=refusal.rule if refusal else rule.key,
            reasons=(refusal.reason if refusal else rule.reason,),
            needs=() if refusal else rule.needs,
            alternatives=self.judge.alternatives(
                options, gpu, quant, workload, runtime, search=refusal is not None
            ),
            notes=() if refusal else self._notes(found),
            backend="none" if refusal else rule.backend or runtime.backend,
            plugin="" if refusal else rule.plugin,
            image=runtime.image,
            trtllm_versions=runtime.trtllm_versions,
            tried="" if refusal else hardware.tried(rule, gpu),
            weights_bytes=self.judge.held(quant.key).stored_bytes,
            kv_bytes_per_token=model.kv_bytes_per_token(recipe.kv_dtype),
            state_bytes_per_sequence=model.state_bytes_per_sequence(STATE_DTYPE),
            conv_bytes_per_sequence=model.conv_bytes_per_sequence,
            memory=room.terms(0 if refusal else found.concurrency),
            free_bytes=room.usable(found.fitting),
            max_concurrency=found.fitting,
            max_context=self._longest(found),
            llm_args={} if refusal else self._llm_args(found, recipe.kv_dtype),
            env={} if refusal or workload.gpus > 1 else rule.env_one_gpu,
            estimate=None
            if refusal or not rule.served
            else estimate(self.speed(gpu, quant), found.concurrency, found.fitting),
        )

    def _llm_args(self, found: Verdict, kv_dtype: str) -> dict[str, Any]:
        return llm_args(
            max_batch_size=found.concurrency,
            max_seq_len=found.context,
            workload=self.workload,
            moe_backend=found.rule.moe_backend or self.runtime.moe_backend,
            kv_dtype=kv_dtype,
        )

    def _longest(self, found: Verdict) -> int:
        """Tokens that each sequence could have, as far as the model is known to go."""
        if not found.concurrency:
            return 0
        known = max(known_context(self.model), found.context)
        return min(found.room.max_context(found.concurrency), known)

    def _notes(self, found: Verdict) -> tuple[str, ...]:
        notes = []
        positions = self.model.max_positions
        if found.context > positions:
            notes.append(
                f"{found.context:,} tokens are more than the {positions:,} positions of the "
                "configuration: nothing in the model ends there, but try its answers at that length"
            )
        lengths = self.workload.isl + self.workload.osl
        if lengths > found.context:
            notes.append(
                f"--isl and --osl make {lengths:,} tokens, more than a sequence may have here "
                f"({found.context:,}); speed and cost are of such sequences all the same"
            )
        return tuple(notes)


def require_buildable(plan: Plan) -> None:
    """Raise `RefusedError` with the plan's reasons and alternatives when it is a refusal."""
    if plan.buildable:
        return
    instead = "; ".join(plan.alternatives) or "none found among the known GPUs and formats"
    raise RefusedError(
        f"{plan.model} as {plan.quant['requested']} on {plan.gpus} x {plan.gpu} is refused "
        f"(rule: {plan.rule}). {' '.join(plan.reasons)} What works instead: {instead}."
    )
