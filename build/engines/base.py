"""What the planner and a build need of an engine, which is what generates tokens in production."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, Protocol

from ...core.checks import Check
from ...model.architecture import Model, Role
from ...model.formats import Quant
from ...model.recipe import Recipe
from ...model.spec import Architecture, EnginePart, Gpu, Plan, Workload
from .rules import Release, Rule

OnCompiled = Callable[[int, int], None]
"""Receives how many kernels are compiled, and of how many."""


class Cache(Protocol):
    """How an engine divides the memory of one GPU that weights and server leave: into Mamba states,
    KV cache and a reserve. Sizes in bytes; contexts in tokens."""

    def fits(self, sequences: int, context: int) -> bool:
        """Whether `sequences` of `context` tokens can be served at once."""

    def max_context(self, sequences: int) -> int:
        """Tokens that each of `sequences` sequences may have; 0 where they do not fit."""

    def terms(self, sequences: int) -> dict[str, int]:
        """All of this memory, by what it holds when configured for `sequences`."""

    def usable(self, sequences: int) -> int:
        """Bytes that Mamba states and KV cache of `sequences` may take together."""


class Engine(Protocol):
    """An engine at one release.

    `name` is the value of `--engine`, `title` the name in sentences, `executor` the executor of the
    served model, and `version_option` the option that chooses a version. `gpu_counts` are the
    numbers of GPUs that one server may use. `step_tokens` are the tokens of one forward pass,
    `state_dtype` is the safetensors dtype of the recurrent Mamba state.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def executor(self) -> str: ...
    @property
    def version_option(self) -> str: ...
    @property
    def gpu_counts(self) -> tuple[int, ...]: ...
    @property
    def step_tokens(self) -> int: ...
    @property
    def state_dtype(self) -> str: ...
    @property
    def release(self) -> Release: ...

    # For the planner.

    def at(self, version: str) -> Engine:
        """The same engine at another version. Raises `UsageError` for an unknown one."""

    def rule(self, gpu: Gpu, quant: Quant, roles: Set[Role]) -> Rule:
        """The support rule for a format that quantizes tensors of `roles`."""

    def split_problem(self, rule: Rule, model: Model, recipe: Recipe, gpus: int) -> str | None:
        """Why what the rule adds to the engine cannot be split over `gpus` GPUs, or None."""

    def server_bytes(self, model: Model, recipe: Recipe, gpus: int) -> Mapping[str, int]:
        """Bytes that a server takes on each GPU beside weights and caches, by what they are for."""

    def cache(self, free: int, state: int, kv_per_token: int) -> Cache:
        """The division of `free` bytes of one GPU, with so many bytes of Mamba state for each
        sequence and of KV cache for each token."""

    def rates(self, architecture: Architecture) -> Architecture:
        """The shares of an architecture's rates that this engine's kernels reach."""

    def part(
        self,
        rule: Rule,
        gpu: Gpu,
        recipe: Recipe,
        workload: Workload,
        sequences: int,
        context: int,
    ) -> EnginePart:
        """The engine's part of a plan for `sequences` sequences of `context` tokens."""

    def refused_part(self) -> EnginePart:
        """The engine's part of a plan that is refused: its name, versions and image."""

    # For a build.

    def require_tools(self, plan: Plan) -> None:
        """Raise `BadInputError` where this machine lacks what `emit` needs."""

    def inputs(self, plan: Plan) -> Any:
        """All that `emit` depends on besides model, recipe and the code, as JSON."""

    def emit(
        self,
        target: Path,
        plan: Plan,
        model: Model,
        recipe: Recipe,
        on_compiled: OnCompiled | None = None,
    ) -> None:
        """Write the engine directory into the existing, empty directory `target`.

        Raises `CheckFailedError` for an argument that the engine would refuse, or for a kernel that
        falls short.
        """

    def check(self, target: Path) -> list[Check]:
        """Check the engine directory of a bundle."""
