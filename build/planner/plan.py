"""The plan: what will be built, whether it fits, who can run it. From the configuration alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...core.errors import RefusedError
from ...model.architecture import Model
from ...model.formats import Quant
from ...model.spec import Concession, Gpu, Plan, Serving, Workload
from ..engines.base import PlannedEngine, named_part
from ..engines.registry import planned as engine_named
from .concessions import Trade, concessions, fewer_sequences
from .efficiency import DEFAULT, Efficiency
from .speed import Speed, estimate
from .verdict import Candidate, Judge, Verdict, known_context


def plan(
    model: Model,
    gpu: Gpu,
    quant: Quant,
    workload: Workload,
    engine: PlannedEngine | None = None,
    efficiency: Efficiency = DEFAULT,
    stored: Quant | None = None,
) -> Plan:
    """Plan `model` in `quant` on `workload.gpus` of `gpu`, for the default engine unless given.

    A refusal is a `Plan` too (`status` refused, with reasons and what works instead). `stored` is
    the format of a quantized checkpoint, which can be had in no other.
    """
    return Planner(model, workload, engine, efficiency, stored).plan(gpu, quant)


class Planner:
    """Plans one model for one workload and engine, on any GPU and in any format, or in that in
    which a quantized checkpoint is `stored`."""

    def __init__(
        self,
        model: Model,
        workload: Workload,
        engine: PlannedEngine | None = None,
        efficiency: Efficiency = DEFAULT,
        stored: Quant | None = None,
    ) -> None:
        self.model, self.workload, self.efficiency = model, workload, efficiency
        self.engine = engine or engine_named()
        self.judge = Judge(model, stored)

    def speed(self, gpu: Gpu, quant: Quant, serving: Serving | None = None) -> Speed:
        """How fast that is, whether or not it fits: in the usual configuration, or in `serving`."""
        held, engine = self.judge.held(quant, self.engine), self.engine
        serving = serving or engine.serving(quant.recipe, self.workload)
        return Speed(held, quant, gpu, self.workload, engine, serving, self.efficiency)

    def plan(self, gpu: Gpu, quant: Quant) -> Plan:
        """The plan for these GPUs and this format."""
        model, workload, engine = self.model, self.workload, self.engine
        candidate = Candidate(gpu, quant, workload, engine)
        verdict = self.judge.verdict(candidate)
        rule, refusal, concurrency = verdict.rule, verdict.refusal, verdict.concurrency
        serving = verdict.serving
        options = rule.alternatives if rule.needs or rule.status == "compared" else ()
        options = refusal.options if refusal else options
        return Plan(
            model=model.name,
            gpu=gpu.key,
            gpu_name=gpu.name,
            gpus=workload.gpus,
            sm=gpu.sm,
            quant={"requested": quant.key, "effective": None if refusal else quant.key},
            layers=quant.recipe.summary,
            status="refused" if refusal else rule.status,
            rule=refusal.rule if refusal else rule.key,
            reasons=(refusal.reason if refusal else rule.reason.format(sm=gpu.sm),),
            alternatives=self.judge.alternatives(options, candidate, search=refusal is not None),
            notes=() if refusal else self._notes(gpu, verdict),
            engine=named_part(engine)
            if refusal
            else engine.part(rule, gpu, workload, serving, concurrency, verdict.context),
            serving=serving,
            concessions=() if refusal else tuple(self._concessions(candidate, verdict)),
            weights_bytes=self.judge.held(quant, engine).stored_bytes,
            kv_dtype=serving.kv_dtype,
            kv_bytes_per_token=model.kv_bytes_per_token(serving.kv_dtype),
            state_bytes_per_sequence=model.state_bytes_per_sequence(serving.state_dtype),
            conv_bytes_per_sequence=model.conv_bytes_per_sequence,
            memory=verdict.memory.terms(0 if refusal else concurrency),
            free_bytes=verdict.memory.cache.usable(verdict.fitting),
            concurrency=0 if refusal else concurrency,
            context=verdict.context,
            max_concurrency=verdict.fitting,
            max_context=self._longest(verdict),
            estimate=None
            if refusal or not rule.served
            else estimate(self.speed(gpu, quant, serving), concurrency, verdict.fitting),
        )

    def _concessions(self, candidate: Candidate, verdict: Verdict) -> Iterator[Concession]:
        """What the configuration gives up so that the model fits, and what each costs."""
        if verdict.serving == verdict.usual:
            return

        def prompt_s(serving: Serving, tokens: int) -> float:
            sized = Planner(
                self.model, replace(self.workload, isl=tokens), self.engine, self.efficiency
            )
            return sized.speed(candidate.gpu, candidate.quant, serving).prefill_s()

        def trade(usual: Serving) -> Trade:
            return Trade(
                usual=usual,
                chosen=verdict.serving,
                usual_memory=self.judge.memory(candidate, usual),
                memory=verdict.memory,
                prompt_s=prompt_s,
                layers=len(self.model.pattern),
                sequences=verdict.concurrency,
            )

        fallbacks = self.engine.fallbacks(self.workload)
        yield from concessions(verdict.usual, verdict.serving, fallbacks, trade)
        if verdict.concurrency < verdict.usual.graph_batch:
            yield fewer_sequences(verdict.usual, verdict.concurrency, self.engine.batch_argument)

    def _longest(self, verdict: Verdict) -> int:
        """Tokens that each sequence could have, as far as the model is known to go."""
        if not verdict.concurrency:
            return 0
        known = max(known_context(self.model), verdict.context)
        return min(verdict.memory.cache.max_context(verdict.concurrency), known)

    def _notes(self, gpu: Gpu, verdict: Verdict) -> tuple[str, ...]:
        notes = [gpu.note] if gpu.note else []
        positions = self.model.max_positions
        if verdict.context > positions:
            notes.append(
                f"{verdict.context:,} tokens are more than the {positions:,} positions of the "
                "configuration: nothing in the model ends there, but try its answers at that length"
            )
        lengths = self.workload.isl + self.workload.osl
        if lengths > verdict.context:
            notes.append(
                f"--isl and --osl make {lengths:,} tokens, more than a sequence may have here "
                f"({verdict.context:,}); speed and cost are of such sequences all the same"
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
