"""Whether a format of a model can be served on some GPUs, or the rule and reason against it and
what works instead. Every alternative that is a command was judged the same way before it is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ...model.architecture import Model
from ...model.catalog import gpu as gpu_named
from ...model.catalog import gpus
from ...model.peers import Peer
from ...model.recipe import RECIPES
from ...model.spec import QUANTS, Gpu, Quant, Workload
from ..engines.tensorrt_llm import int4
from . import support
from .holdings import Holdings, holdings
from .memory import Memory, memory

DEFAULT_CONTEXT: Final = 32768
DEFAULT_MAX_BATCH: Final = 64
TENSOR_PARALLEL_SIZES: Final = (1, 2, 4, 8)
"""Upstream's Nemotron-H: "TP has to be either 1, 2, 4 or 8"."""

MOST_ALTERNATIVES: Final = 5

LONGEST: Final = 2**20
"""Tokens of a sequence that Nemotron 3 is published for. Without position embeddings nothing in the
model ends at the configured number; the longest that is said to fit ends here."""

LONG_MODELS: Final = 2**18
"""Models that are configured for so many positions are planned up to `LONGEST` at least."""


def known_context(model: Model) -> int:
    """Tokens of a sequence as far as the model is known to go."""
    positions = model.max_positions
    return max(LONGEST, positions) if positions >= LONG_MODELS else positions


@dataclass(frozen=True, slots=True)
class Refusal:
    """`options` are what may work instead: command lines, which begin with `--` and are judged
    before they are told, or words."""

    rule: str
    reason: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The row that decides, what fits, and what the server would be set up for: `concurrency`
    sequences of `context` tokens, of which `fitting` would fit."""

    rule: support.Rule
    room: Memory
    context: int
    fitting: int
    concurrency: int
    refusal: Refusal | None


class Judge:
    """Judges one model; keeps what does not depend on the question."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._held: dict[str, Holdings] = {}

    def held(self, quant: str) -> Holdings:
        """What the model takes in a format (a key of `RECIPES`)."""
        if quant not in self._held:
            self._held[quant] = holdings(self.model, RECIPES[quant])
        return self._held[quant]

    def verdict(
        self, gpu: Gpu, quant: Quant, workload: Workload, runtime: support.Runtime
    ) -> Verdict:
        """Whether `workload` can be served in `quant` on its number of `gpu`s."""
        recipe, count = RECIPES[quant.key], workload.gpus
        held = self.held(quant.key)
        rule = support.rule_for(gpu, quant, held.quantized, runtime.key)
        if isinstance(self.model, Peer):
            rule = support.compared(rule)
        room = memory(held, recipe, gpu, count, runtime)
        context = workload.context or max(
            min(self.model.max_positions, DEFAULT_CONTEXT), workload.isl + workload.osl
        )
        fitting = room.max_concurrency(context)
        concurrency = workload.concurrency or min(fitting, DEFAULT_MAX_BATCH)
        refusal: Refusal | None = None
        if rule.status == "refused":
            refusal = Refusal(rule.key, rule.reason.format(sm=gpu.sm), rule.alternatives)
        refusal = refusal or self._unsplit(rule, quant, count)
        if refusal is None and fitting < max(1, concurrency):
            known = known_context(self.model)
            refusal = _misfit(gpu, room, context, concurrency, fitting, known)
        return Verdict(rule, room, context, fitting, concurrency, refusal)

    def _unsplit(self, rule: support.Rule, quant: Quant, count: int) -> Refusal | None:
        """A refusal where upstream or the plugin cannot split the model over `count` GPUs."""
        sizes = ", ".join(map(str, TENSOR_PARALLEL_SIZES))
        others = tuple(f"--gpus {size}" for size in TENSOR_PARALLEL_SIZES if size != count)
        if count not in TENSOR_PARALLEL_SIZES:
            reason = f"TensorRT-LLM runs Nemotron-H on {sizes} GPUs, not on {count}."
            return Refusal("gpus", reason, others)
        uneven = {
            "mamba_num_heads": self.model.mamba.num_heads if "M" in self.model.pattern else count,
            "num_attention_heads": self.model.attention.num_heads,
            "n_routed_experts": self.model.moe.num_experts if self.model.moe else count,
        }
        for name, number in uneven.items():
            if number % count:
                reason = f"`{name}` ({number}) of this model does not divide by {count} GPUs."
                return Refusal("split", reason, others)
        problem = int4.split_problem(self.model, RECIPES[quant.key], count) if rule.plugin else None
        if problem is None:
            return None
        return Refusal(
            "expert-split", f"The INT4 plugin splits layers by expert: {problem}.", others
        )

    def alternatives(
        self,
        options: tuple[str, ...],
        gpu: Gpu,
        quant: Quant,
        workload: Workload,
        runtime: support.Runtime,
        search: bool,
    ) -> tuple[str, ...]:
        """Those of `options` that work instead; with `search`, and no command among them, the
        nearest that do. What is not a command (another engine) comes last."""
        words = [text for text in options if not text.startswith("--")]
        commands = [text for text in options if text.startswith("--")]
        told = [text for text in commands if self._works(text, gpu, quant, workload, runtime)]
        if search and not told:
            told = list(self._nearest(gpu, quant, workload, runtime))
        return tuple(dict.fromkeys([*told[:MOST_ALTERNATIVES], *words]))

    def _works(
        self, text: str, gpu: Gpu, quant: Quant, workload: Workload, runtime: support.Runtime
    ) -> bool:
        words = text.split()
        options = dict(zip(words[::2], words[1::2], strict=True))
        changes = {name[2:]: int(value) for name, value in options.items() if value.isdecimal()}
        if "--trtllm" in options:
            runtime = support.runtime(options["--trtllm"])
        found = self.verdict(
            gpu_named(options["--gpu"]) if "--gpu" in options else gpu,
            QUANTS[options.get("--quant", quant.key)],
            replace(workload, **changes),
            runtime,
        )
        return found.refusal is None and found.rule.served

    def _nearest(
        self, gpu: Gpu, quant: Quant, workload: Workload, runtime: support.Runtime
    ) -> Iterator[str]:
        """Other formats on these GPUs, then more of these GPUs, then other GPUs, the least memory
        first: one of each that works. Where none does, as many sequences as the largest can hold.
        """
        formats = [f"--quant {key}" for key in QUANTS if key != quant.key]
        counts = [size for size in TENSOR_PARALLEL_SIZES if size > workload.gpus]
        more = [f"--gpus {size}" for size in counts]
        more += [f"--gpus {size} {text}" for size in counts for text in formats]
        others = sorted(
            (other.memory_bytes * size, f"--gpu {other.key} --gpus {size}")
            for other in gpus().values()
            for size in TENSOR_PARALLEL_SIZES
            if other.key != gpu.key
        )
        elsewhere = [text for _, text in others]
        found = [text for text in formats if self._works(text, gpu, quant, workload, runtime)]
        for texts in (more, elsewhere):
            works = (text for text in texts if self._works(text, gpu, quant, workload, runtime))
            found += [text for text in [next(works, None)] if text]
        yield from found or self._fewer(workload, runtime)

    def _fewer(self, workload: Workload, runtime: support.Runtime) -> Iterator[str]:
        """On most of the largest GPUs, the number of sequences that does fit there."""
        count = TENSOR_PARALLEL_SIZES[-1]
        largest = max(gpus().values(), key=lambda other: other.memory_bytes)
        size = replace(workload, gpus=count, concurrency=None)
        for quant in QUANTS.values():
            found = self.verdict(largest, quant, size, runtime)
            if found.refusal is None:
                where = f"--gpu {largest.key} --gpus {count} --quant {quant.key}"
                yield f"{where} --concurrency {found.fitting}"


def _misfit(
    gpu: Gpu, room: Memory, context: int, concurrency: int, fitting: int, known: int
) -> Refusal:
    weights = room.fixed["weights"] / 1e9
    beside = (sum(room.fixed.values()) - room.fixed["weights"]) / 1e9
    each = (
        f"The {gpu.name} has {gpu.memory_bytes / 1e9:.1f} GB; weights take {weights:.1f} GB of "
        f"that, driver, server and activations {beside:.1f} GB"
    )
    if room.left <= 0:
        return Refusal("memory", f"{each}, which is {-room.left / 1e9:.1f} GB too much.")
    if not fitting:
        shorter = min(known, room.max_context(1))
        reason = (
            f"{each}, and the {room.left / 1e9:.1f} GB left are not enough for one sequence of "
            f"{context} tokens."
        )
        return Refusal("memory", reason, (f"--context {shorter}",) if shorter >= 1024 else ())
    longest = room.max_context(concurrency)
    reason = (
        f"{fitting} sequences of {context} tokens fit beside {weights:.1f} GB of weights, not "
        f"{concurrency}"
    )
    options = [f"--concurrency {fitting}"]
    if longest:
        reason += f"; {concurrency} could have {longest} tokens each"
        options.append(f"--context {longest}")
    return Refusal("memory", reason + ".", tuple(options))
