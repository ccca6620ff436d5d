"""What the planner and a build need of an engine, which is what generates tokens in production."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ...core.checks import Check
from ...model.architecture import Model, Role
from ...model.formats import Quant
from ...model.recipe import Recipe
from ...model.spec import Architecture, EnginePart, Gpu, Plan, Serving, Workload
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


@dataclass(frozen=True, slots=True)
class Fallback:
    """A setting that a server can do with less of, and so needs less memory.

    `attribute` is one of `Serving`, `argument` the engine's name for it, `values` are what to fall
    back to, the mildest first. `spellings` are the engine's words for values that it spells
    otherwise.
    """

    attribute: str
    argument: str
    values: tuple[int | float | str, ...]
    spellings: Mapping[str, str] = field(default_factory=dict)

    def spelled(self, serving: Serving) -> str:
        """The value that `serving` has, as the engine spells it."""
        value = str(self.of(serving))
        return self.spellings.get(value, value)

    def of(self, serving: Serving) -> int | float | str:
        """The value that `serving` has."""
        value: int | float | str = getattr(serving, self.attribute)
        return value

    def applied(self, serving: Serving, value: int | float | str) -> Serving:
        """`serving` with another value."""
        change: dict[str, Any] = {self.attribute: value}
        return replace(serving, **change)


class PlannedEngine(Protocol):
    """An engine at one release, as far as the planner needs it.

    `name` is the value of `--engine`, `title` the name in sentences, `executor` the executor of the
    served model, `package` the module that it imports, and `version_option` the option that chooses
    a version. `gpu_counts` are the numbers of GPUs that one server may use, `batch_argument` is the
    engine's name for the number of sequences that it serves at once.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def executor(self) -> str: ...
    @property
    def package(self) -> str: ...
    @property
    def version_option(self) -> str: ...
    @property
    def gpu_counts(self) -> tuple[int, ...]: ...
    @property
    def batch_argument(self) -> str: ...
    @property
    def release(self) -> Release: ...

    def at(self, version: str) -> PlannedEngine:
        """The same engine at another version. Raises `UsageError` for an unknown one."""

    def rule(self, gpu: Gpu, quant: Quant, roles: Set[Role]) -> Rule:
        """The support rule for a format that quantizes tensors of `roles`."""

    def layout(self, recipe: Recipe) -> str:
        """The layout in which the engine reads a checkpoint of that recipe, by its key."""

    def split_problem(self, rule: Rule, model: Model, recipe: Recipe, gpus: int) -> str | None:
        """Why what the rule decides about cannot be split over `gpus` GPUs, or None."""

    def serving(self, recipe: Recipe, workload: Workload) -> Serving:
        """The usual configuration of a server, with what `workload` chooses. Raises `UsageError`
        for a value that is unknown or contradicts another one."""

    def serving_problem(self, recipe: Recipe, workload: Workload) -> str | None:
        """Why the engine cannot serve the format as `workload` chooses, or None."""

    def fallbacks(self, workload: Workload) -> tuple[Fallback, ...]:
        """What to give up where a model does not fit, in the order in which a plan tries it. None
        of it is what `workload` chooses."""

    def server_bytes(
        self, model: Model, recipe: Recipe, gpus: int, serving: Serving, rule: Rule
    ) -> Mapping[str, int]:
        """Bytes that a server of what `rule` decides takes on the fullest GPU beside weights and
        caches, by what they are for."""

    def cache(
        self, model: Model, gpu: Gpu, free: int, state: int, kv_per_token: int, serving: Serving
    ) -> Cache:
        """The division of the `free` bytes of one `gpu` that weights and server leave, with so many
        bytes of Mamba state for each sequence of `model` and of KV cache for each token."""

    def rates(self, architecture: Architecture) -> Architecture:
        """The shares of an architecture's rates that this engine's kernels reach."""

    def part(
        self,
        rule: Rule,
        gpu: Gpu,
        workload: Workload,
        serving: Serving,
        sequences: int,
        context: int,
    ) -> EnginePart:
        """The engine's part of a plan for `sequences` sequences of `context` tokens."""


class Engine(PlannedEngine, Protocol):
    """An engine that bundles are built for."""

    def at(self, version: str) -> Engine:
        """The same engine at another version. Raises `UsageError` for an unknown one."""

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
        checkpoint: Path,
        on_compiled: OnCompiled | None = None,
    ) -> None:
        """Write the engine directory for the weights in the directory `checkpoint` into the
        existing, empty directory `target`.

        Raises `CheckFailedError` for an argument that the engine would refuse, or for a kernel that
        falls short.
        """

    def check(self, target: Path) -> list[Check]:
        """Check the engine directory of a bundle."""


def named_part(engine: PlannedEngine) -> EnginePart:
    """The engine's part of a plan with its name, versions and image only, as of one that is
    refused."""
    return EnginePart(
        name=engine.name,
        title=engine.title,
        executor=engine.executor,
        versions=engine.release.versions,
        image=engine.release.image,
    )
