"""Whether a format of a model can be served on some GPUs, or the rule and reason against it and
what works instead. Every alternative that is a command was judged the same way before it is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from ...core.sizes import size_text
from ...model.architecture import Model
from ...model.catalog import gpu as gpu_named
from ...model.catalog import gpus
from ...model.format_request import default_quants, requested
from ...model.formats import Quant
from ...model.recipe import Recipe
from ...model.spec import Gpu, Serving, Workload
from ..engines.base import PlannedEngine
from ..engines.registry import planned as engine_named
from ..engines.rules import Rule
from .concessions import named, reduced
from .holdings import Holdings, holdings
from .memory import Memory, memory

DEFAULT_CONTEXT: Final = 32768
MOST_ALTERNATIVES: Final = 5

LONGEST: Final = 2**20
"""Tokens of a sequence that Nemotron 3 is published for. Without position embeddings nothing in the
model ends at the configured number; the longest context that is planned ends here."""

LONG_MODELS: Final = 2**18
"""Models that are configured for so many positions are planned up to `LONGEST` at least."""


def known_context(model: Model) -> int:
    """Tokens of a sequence as far as the model is known to go."""
    positions = model.max_positions
    return max(LONGEST, positions) if positions >= LONG_MODELS else positions


@dataclass(frozen=True, slots=True)
class Refusal:
    """`options` are what may work instead: command lines, which begin with `--` and are judged
    before they are shown, or words."""

    rule: str
    reason: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The rule that decides, the memory of each GPU, and what the server would be configured for:
    `concurrency` sequences of `context` tokens, of which `fitting` would fit. `serving` is the
    configuration, `usual` that of a server with enough memory."""

    rule: Rule
    usual: Serving
    serving: Serving
    memory: Memory
    context: int
    fitting: int
    concurrency: int
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is judged: serving a format on `workload.gpus` GPUs of a kind, by an engine."""

    gpu: Gpu
    quant: Quant
    workload: Workload
    engine: PlannedEngine

    def changed(self, option: str, model: Model, stored: Quant | None = None) -> Candidate:
        """This candidate for `model` changed by options of a command line, such as `--gpus 2
        --quant fp8`; of a quantized checkpoint the format stays that in which it is `stored`.
        Raises `UsageError` for a value that is not known."""
        words = option.split()
        options = dict(zip(words[::2], words[1::2], strict=True))
        numbers: dict[str, Any] = {
            name[2:]: int(value) for name, value in options.items() if value.isdecimal()
        }
        quant, recipe = options.get("--quant", self.quant.key), options.get("--recipe")
        changes_format = "--quant" in options or "--recipe" in options
        engine = engine_named(options["--engine"]) if "--engine" in options else self.engine
        if engine.version_option in options:
            engine = engine.at(options[engine.version_option])
        return Candidate(
            gpu_named(options["--gpu"]) if "--gpu" in options else self.gpu,
            stored or requested(quant, recipe).for_model(model) if changes_format else self.quant,
            replace(self.workload, **numbers),
            engine,
        )


class Judge:
    """Judges candidates for one model; keeps what the model takes in each format. A quantized
    checkpoint can be had in the one alone in which it is `stored`."""

    def __init__(self, model: Model, stored: Quant | None = None) -> None:
        self.model, self.stored = model, stored
        self.quants: Final = (stored,) if stored else default_quants(model)
        self._held: dict[tuple[Recipe, str], Holdings] = {}

    def held(self, quant: Quant, engine: PlannedEngine) -> Holdings:
        """What the model takes in a format, in the layout that the engine reads."""
        recipe, layout = quant.recipe, engine.layout(quant.recipe)
        if (recipe, layout) not in self._held:
            self._held[recipe, layout] = holdings(self.model, recipe, layout)
        return self._held[recipe, layout]

    def memory(self, candidate: Candidate, serving: Serving) -> Memory:
        """The memory of the fullest GPU when the server is configured as `serving`."""
        return memory(
            self.held(candidate.quant, candidate.engine),
            candidate.quant.recipe,
            candidate.gpu,
            candidate.workload.gpus,
            candidate.engine,
            serving,
            self._rule(candidate),
        )

    def _rule(self, candidate: Candidate) -> Rule:
        """The engine's support rule for the candidate."""
        roles = self.held(candidate.quant, candidate.engine).quantized
        return candidate.engine.rule(candidate.gpu, candidate.quant, roles)

    def verdict(self, candidate: Candidate) -> Verdict:
        """Whether the candidate can be served, and how."""
        workload, engine = candidate.workload, candidate.engine
        recipe, rule = candidate.quant.recipe, self._rule(candidate)
        if self.model.planned_only is not None:
            rule = rule.only_planned(self.model.planned_only)
        context = workload.context or max(
            min(self.model.max_positions, DEFAULT_CONTEXT), workload.isl + workload.osl
        )
        usual = engine.serving(recipe, workload)
        serving, refusal = usual, self._refusal(rule, candidate)
        if refusal is None:
            serving = reduced(
                usual,
                engine.fallbacks(workload),
                lambda s: self.memory(candidate, s).cache.fits(workload.concurrency or 1, context),
            )
        each = self.memory(candidate, serving)
        fitting = each.max_concurrency(context)
        concurrency = workload.concurrency or min(fitting, serving.graph_batch)
        if refusal is None and fitting < max(1, concurrency):
            known = known_context(self.model)
            refusal = _misfit(candidate.gpu, each, context, concurrency, fitting, known)
            if serving != usual:
                even = named(serving, usual, engine.fallbacks(workload))
                refusal = replace(refusal, reason=f"{refusal.reason} This holds even with {even}.")
        return Verdict(rule, usual, serving, each, context, fitting, concurrency, refusal)

    def _refusal(self, rule: Rule, candidate: Candidate) -> Refusal | None:
        """A refusal whatever the memory: by the rule, the engine's settings or the split."""
        if rule.status == "refused":
            reason = rule.reason.format(sm=candidate.gpu.sm)
            return Refusal(rule.key, reason, rule.alternatives)
        engine, recipe = candidate.engine, candidate.quant.recipe
        if problem := engine.serving_problem(recipe, candidate.workload):
            return Refusal("kv-cache", problem)
        return self._unsplit(rule, candidate)

    def _unsplit(self, rule: Rule, candidate: Candidate) -> Refusal | None:
        """A refusal where the engine or its plugin cannot split the model over so many GPUs."""
        engine, gpu, count = candidate.engine, candidate.gpu, candidate.workload.gpus
        possible = [size for size in engine.gpu_counts if size <= gpu.gpus_per_node]
        others = tuple(f"--gpus {size}" for size in possible if size != count)
        if count > gpu.gpus_per_node:
            reason = (
                f"A server's GPUs are in one machine, and a machine has {gpu.gpus_per_node} x "
                f"{gpu.name} at most, not {count}."
            )
            return Refusal("gpus", reason, others)
        if count not in engine.gpu_counts:
            sizes = ", ".join(map(str, engine.gpu_counts))
            reason = f"{engine.title} runs Nemotron-H on {sizes} GPUs, not on {count}."
            return Refusal("gpus", reason, others)
        uneven = {
            "mamba_num_heads": self.model.mamba.num_heads if "M" in self.model.pattern else count,
            "num_attention_heads": self.model.attention.num_heads,
            "n_routed_experts": math.gcd(*(moe.num_experts for moe in self.model.expert_layers)),
        }
        for name, number in uneven.items():
            if number % count:
                reason = f"`{name}` ({number}) of this model does not divide by {count} GPUs."
                return Refusal("split", reason, others)
        problem = engine.split_problem(rule, self.model, candidate.quant.recipe, count)
        return Refusal("expert-split", problem, others) if problem else None

    def alternatives(
        self, options: tuple[str, ...], candidate: Candidate, search: bool
    ) -> tuple[str, ...]:
        """Those of `options` that work instead; with `search`, and no command among them, the
        nearest that do. What is not a command (another engine) comes last."""
        words = [text for text in options if not text.startswith("--")]
        commands = [text for text in options if text.startswith("--")]
        working = [text for text in commands if self._works(text, candidate)]
        if search and not working:
            working = list(self._nearest(candidate))
        return tuple(dict.fromkeys([*working[:MOST_ALTERNATIVES], *words]))

    def _works(self, option: str, candidate: Candidate) -> bool:
        options = dict(zip(option.split()[::2], option.split()[1::2], strict=True))
        if self.stored and (
            "--recipe" in options or options.get("--quant", self.stored.key) != self.stored.key
        ):
            return False
        verdict = self.verdict(candidate.changed(option, self.model, self.stored))
        return verdict.refusal is None and verdict.rule.served

    def _nearest(self, candidate: Candidate) -> Iterator[str]:
        """Other formats on these GPUs, then more of these GPUs, then other GPUs, the least memory
        first: one of each that works. Where none does, as many sequences as the largest can hold.
        """
        sizes = candidate.engine.gpu_counts
        formats = [f"--quant {q.key}" for q in self.quants if q.key != candidate.quant.key]
        counts = [size for size in sizes if size > candidate.workload.gpus]
        more = [f"--gpus {size}" for size in counts]
        more += [f"--gpus {size} {text}" for size in counts for text in formats]
        others = sorted(
            (other.memory_bytes * size, f"--gpu {other.key} --gpus {size}")
            for other in gpus().values()
            for size in sizes
            if other.key != candidate.gpu.key
        )
        elsewhere = [text for _, text in others]
        elsewhere += [f"{text} {quant}" for text in elsewhere for quant in formats]
        working = [text for text in formats if self._works(text, candidate)]
        for texts in (more, elsewhere):
            first = next((text for text in texts if self._works(text, candidate)), None)
            working += [first] if first else []
        yield from working or self._fewer(candidate)

    def _fewer(self, candidate: Candidate) -> Iterator[str]:
        """On as many GPUs as possible of the largest kind on which a format works, the number of
        sequences that fits there."""
        count = candidate.engine.gpu_counts[-1]
        workload = replace(candidate.workload, gpus=count, concurrency=None)
        for gpu in sorted(gpus().values(), key=lambda other: -other.memory_bytes):
            for quant in self.quants:
                verdict = self.verdict(Candidate(gpu, quant, workload, candidate.engine))
                if verdict.refusal is None:
                    where = f"--gpu {gpu.key} --gpus {count} --quant {quant.key}"
                    yield f"{where} --concurrency {verdict.fitting}"
                    return


def _misfit(
    gpu: Gpu, each: Memory, context: int, concurrency: int, fitting: int, known: int
) -> Refusal:
    weights = size_text(each.fixed["weights"], 1)
    beside = (sum(each.fixed.values()) - each.fixed["weights"]) / 1e9
    head = (
        f"The {gpu.name} has {gpu.memory_bytes / 1e9:.1f} GB; weights take {weights} of "
        f"that, driver, server and activations {beside:.1f} GB"
    )
    if each.left <= 0:
        return Refusal("memory", f"{head}, which is {size_text(-each.left, 1)} too much.")
    if not fitting:
        shorter = min(known, each.cache.max_context(1))
        reason = (
            f"{head}, and the {size_text(each.left, 1)} left are not enough for one sequence of "
            f"{context} tokens."
        )
        return Refusal("memory", reason, (f"--context {shorter}",) if shorter >= 1024 else ())
    longest = each.cache.max_context(concurrency)
    reason = (
        f"{fitting} sequences of {context} tokens fit beside {weights} of weights, not "
        f"{concurrency}"
    )
    options = [f"--concurrency {fitting}"]
    if longest:
        reason += f"; {concurrency} could have {longest} tokens each"
        options.append(f"--context {longest}")
    return Refusal("memory", reason + ".", tuple(options))
