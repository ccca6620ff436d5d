"""vLLM as an `Engine`."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ....core.checks import Check
from ....model.architecture import Model, Role
from ....model.formats import Quant
from ....model.recipe import Recipe
from ....model.spec import Architecture, EnginePart, ExpertRates, Gpu, Plan, Serving, Workload
from ....model.weight_format import COMPRESSED_TENSORS, INTEGER_BITS, MODELOPT
from ....runtime.contract import VLLM_SETTINGS
from ..base import Fallback, OnCompiled, named_part
from ..directory import EngineFiles
from ..rules import Rule
from ..server_memory import server_bytes
from . import serving as settings
from . import split
from .arguments import engine_args, problems
from .memory import PagedCache, blocks
from .support import RULES, evidence

MIXED_LAYOUTS: Final = "mixed-layouts"
"""Condition of a rule: the recipe has integers, and formats that are no integers."""

NVFP4_INPUTS: Final = "nvfp4-inputs"
"""Condition of a rule: NVFP4 weights are multiplied with NVFP4 inputs (W4A4)."""

FILES: Final = EngineFiles(
    title=RULES.title,
    versions="vllm_versions",
    arguments="engine_args.yaml",
    takes="vllm.AsyncEngineArgs",
    problems=problems,
)


class Vllm:
    """vLLM at one release.

    `version` chooses the release; without it, the one that bundles are built for. Raises
    `UsageError` for a version without support rules.
    """

    name: Final = "vllm"
    title: Final = RULES.title
    executor: Final = "vllm"
    package: Final = "vllm"
    version_option: Final = RULES.version_option
    gpu_counts: Final = (1, 2, 4, 8)
    batch_argument: Final = "max_num_seqs"

    def __init__(self, version: str | None = None) -> None:
        self.release = RULES.release(version)

    def at(self, version: str) -> Vllm:
        """vLLM at another version. Raises `UsageError` for an unknown one."""
        return Vllm(version)

    def rule(self, gpu: Gpu, quant: Quant, roles: Set[Role]) -> Rule:
        """The support rule for a format that quantizes tensors of `roles`."""
        conditions = set()
        integers = {kind.key in INTEGER_BITS for kind in quant.recipe.formats}
        if len(integers) > 1:
            conditions.add(MIXED_LAYOUTS)
        if any(kind.inputs for kind in quant.recipe.formats):
            conditions.add(NVFP4_INPUTS)
        return RULES.rule_for(gpu, quant, roles, self.release, conditions)

    def layout(self, recipe: Recipe) -> str:
        """That of compressed-tensors for integers, ModelOpt's for everything else."""
        keys = {kind.key for kind in recipe.formats}
        return COMPRESSED_TENSORS if keys and keys <= INTEGER_BITS.keys() else MODELOPT

    def split_problem(self, rule: Rule, model: Model, recipe: Recipe, gpus: int) -> str | None:
        """Why vLLM cannot split the model's quantized matrices over `gpus` GPUs, or None."""
        return split.problem(model, recipe, gpus)

    def serving(self, recipe: Recipe, workload: Workload) -> Serving:
        """The usual configuration of a server, with what `workload` chooses. Raises `UsageError`
        for a value that is unknown or contradicts another one."""
        return settings.serving(recipe, workload)

    def serving_problem(self, recipe: Recipe, workload: Workload) -> str | None:
        """None: each of its caches can have any dtype, whatever the format."""
        return None

    def fallbacks(self, workload: Workload) -> tuple[Fallback, ...]:
        """What to give up where a model does not fit, in the order in which a plan tries it."""
        return settings.fallbacks(workload)

    def server_bytes(
        self, model: Model, recipe: Recipe, gpus: int, serving: Serving, rule: Rule
    ) -> Mapping[str, int]:
        """Bytes that a server takes on each GPU beside weights and caches."""
        return server_bytes(model, recipe, gpus, serving.step_tokens, settings.graphs(serving))

    def cache(
        self, model: Model, gpu: Gpu, free: int, state: int, kv_per_token: int, serving: Serving
    ) -> PagedCache:
        """The division of `free` bytes of one GPU, of whose memory vLLM leaves a share alone."""
        reserve = int((1 - serving.cache_share) * gpu.cuda_bytes)
        return PagedCache(free, reserve, blocks(model, state, kv_per_token))

    def rates(self, architecture: Architecture) -> Architecture:
        """The shares that the catalogue has, but for integers: Marlin's kernels run them, and FP8
        where there are no FP8 units."""
        marlin = architecture.experts["nvfp4"]
        integer = replace(marlin, caveat=_NOT_MEASURED)
        experts: dict[str, ExpertRates] = {**architecture.experts, "int4": integer, "int8": integer}
        experts.setdefault("fp8", integer)
        return replace(architecture, experts=experts)

    def part(
        self,
        rule: Rule,
        gpu: Gpu,
        workload: Workload,
        serving: Serving,
        sequences: int,
        context: int,
    ) -> EnginePart:
        """Arguments, environment and image for `sequences` sequences of `context` tokens."""
        own = {**self.release.settings, **(rule.settings or {})}
        args = engine_args(
            max_num_seqs=sequences,
            max_model_len=context,
            workload=workload,
            serving=serving,
            moe_backend=own.get("moe_backend"),
        )
        return replace(
            named_part(self),
            backend=rule.backend or self.release.backend,
            args=args,
            env=VLLM_SETTINGS,
            needs=rule.needs,
            evidence=evidence(rule),
        )

    def require_tools(self, plan: Plan) -> None:
        """Nothing: vLLM compiles what it needs on the node."""

    def inputs(self, plan: Plan) -> Any:
        """All that `emit` depends on besides model, recipe and code."""
        return [FILES.describe(plan), dict(plan.engine.args)]

    def emit(
        self,
        target: Path,
        plan: Plan,
        model: Model,
        recipe: Recipe,
        checkpoint: Path,
        on_compiled: OnCompiled | None = None,
    ) -> None:
        """Write `engine.json` and the arguments."""
        FILES.emit(target, plan)

    def check(self, target: Path) -> list[Check]:
        """Check the engine directory of a bundle."""
        return FILES.check(target)[0]


_NOT_MEASURED: Final = (
    "not measured with this model: taken to be as efficient as Marlin's INT4 with other models"
)
