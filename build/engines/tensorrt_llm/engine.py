"""TensorRT-LLM as an `Engine`."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ....core.checks import Check
from ....model.architecture import Model, Role
from ....model.formats import Quant
from ....model.recipe import Recipe
from ....model.spec import Architecture, EnginePart, Gpu, Plan, Serving, Workload
from ....model.weight_format import MODELOPT
from ....runtime.contract import SINGLE_PROCESS
from ..base import Fallback, OnCompiled, named_part
from ..rules import Rule
from . import directory, experts, hardware
from . import serving as settings
from .arguments import llm_args
from .memory import BlockCache, server_bytes
from .support import RULES

NO_KERNELS: Final = "no-kernels"
"""Condition of a rule: there are no kernels for the GPU's SM version."""

MIXED_EXPERTS: Final = "mixed-experts"
"""Condition of a rule: experts do not all have one format."""

NVFP4_INPUTS: Final = "nvfp4-inputs"
"""Condition of a rule: NVFP4 weights are multiplied with NVFP4 inputs (W4A4)."""


class TensorRtLlm:
    """TensorRT-LLM with its PyTorch backend, at one release.

    `version` chooses the release; without it, the one that bundles are built for. Raises
    `UsageError` for a version without support rules.
    """

    name: Final = "tensorrt-llm"
    title: Final = RULES.title
    executor: Final = "trtllm"
    package: Final = "tensorrt_llm"
    version_option: Final = RULES.version_option
    gpu_counts: Final = (1, 2, 4, 8)  # upstream's Nemotron-H: "TP has to be either 1, 2, 4 or 8"
    batch_argument: Final = "max_batch_size"

    def __init__(self, version: str | None = None) -> None:
        self.release = RULES.release(version)

    def at(self, version: str) -> TensorRtLlm:
        """TensorRT-LLM at another version. Raises `UsageError` for an unknown one."""
        return TensorRtLlm(version)

    def rule(self, gpu: Gpu, quant: Quant, roles: Set[Role]) -> Rule:
        """The support rule for a format that quantizes tensors of `roles`."""
        conditions = set() if experts.has_kernels(gpu.sm) else {NO_KERNELS}
        if quant.recipe.expert_format is None:
            conditions.add(MIXED_EXPERTS)
        if any(kind.inputs for kind in quant.recipe.formats):
            conditions.add(NVFP4_INPUTS)
        return RULES.rule_for(gpu, quant, roles, self.release, conditions)

    def layout(self, recipe: Recipe) -> str:
        """ModelOpt's, for every format."""
        return MODELOPT

    def split_problem(self, rule: Rule, model: Model, recipe: Recipe, gpus: int) -> str | None:
        """Why the plugin cannot split the model's experts over `gpus` GPUs, or None."""
        problem = experts.split_problem(model, recipe, gpus) if rule.plugin else None
        return f"nemo-deploy's plugin splits layers by expert: {problem}." if problem else None

    def serving(self, recipe: Recipe, workload: Workload) -> Serving:
        """The usual configuration of a server, with what `workload` chooses. Raises `UsageError`
        for a value that is unknown or contradicts another one."""
        return settings.serving(recipe, workload)

    def serving_problem(self, recipe: Recipe, workload: Workload) -> str | None:
        """Why TensorRT-LLM cannot serve the format as `workload` chooses, or None."""
        return settings.problem(recipe, workload)

    def fallbacks(self, workload: Workload) -> tuple[Fallback, ...]:
        """What to give up where a model does not fit, in the order in which a plan tries it."""
        return settings.fallbacks(workload)

    def server_bytes(
        self, model: Model, recipe: Recipe, gpus: int, serving: Serving, rule: Rule
    ) -> Mapping[str, int]:
        """Bytes that a server takes on the fullest GPU beside weights and caches."""
        single_process = SINGLE_PROCESS.name in _environment(rule, gpus)
        return server_bytes(model, recipe, gpus, serving, single_process)

    def cache(
        self, model: Model, gpu: Gpu, free: int, state: int, kv_per_token: int, serving: Serving
    ) -> BlockCache:
        """The division of `free` bytes of one GPU, by the rules of this release."""
        return BlockCache(
            free,
            state,
            kv_per_token,
            serving.cache_share,
            self.release.settings["state_in_fraction"],
            self.release.settings["spare_state_slots"],
        )

    def rates(self, architecture: Architecture) -> Architecture:
        """The shares that the catalogue has, which were fitted to TensorRT-LLM's kernels."""
        return architecture

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
        args = llm_args(
            max_batch_size=sequences,
            max_seq_len=context,
            workload=workload,
            serving=serving,
            moe_backend=own["moe_backend"],
        )
        return replace(
            named_part(self),
            backend=rule.backend or self.release.backend,
            plugin=rule.plugin,
            args=args,
            env=_environment(rule, workload.gpus),
            needs=rule.needs,
            evidence=hardware.evidence(rule, gpu),
            tested_on=hardware.tested_on(rule, gpu),
            proven=hardware.proven(rule, gpu),
        )

    def require_tools(self, plan: Plan) -> None:
        """Raise `BadInputError` where kernels are needed and cannot be compiled here."""
        if plan.engine.plugin:
            experts.require_compiler()

    def inputs(self, plan: Plan) -> Any:
        """All that `emit` depends on besides model, recipe and code."""
        return [directory.FILES.describe(plan), dict(plan.engine.args)]

    def emit(
        self,
        target: Path,
        plan: Plan,
        model: Model,
        recipe: Recipe,
        checkpoint: Path,
        on_compiled: OnCompiled | None = None,
    ) -> None:
        """Write the arguments and, for INT4 and INT8, the plugin and its compiled kernels."""
        driver = None
        if plan.engine.plugin:
            from ....runtime.startup_check import cache_directory

            divisor = experts.scale_divisor(checkpoint, recipe)
            experts.emit_plugin(target, model, recipe, divisor)
            cache = cache_directory() / "kernels"
            experts.emit_kernels(target, plan, model, recipe, divisor, cache, on_compiled)
            driver = experts.lowest_driver(target, plan.sm)
        directory.FILES.emit(target, plan, driver)

    def check(self, target: Path) -> list[Check]:
        """Check the engine directory of a bundle."""
        return directory.check(target)


def _environment(rule: Rule, gpus: int) -> Mapping[str, str]:
    """The environment of a server on `gpus` GPUs."""
    return (rule.env_one_gpu or {}) if gpus == 1 else {}
