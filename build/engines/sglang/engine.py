"""SGLang as a `PlannedEngine`: its own server serves what it serves, and never a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ....model.architecture import Model, Role
from ....model.formats import Quant
from ....model.recipe import Recipe
from ....model.spec import Architecture, EnginePart, Gpu, Serving, Workload
from ....model.weight_format import MODELOPT
from ..base import Fallback, named_part
from ..rules import Rule, RuleBook
from ..server_memory import server_bytes
from ..serving_options import usual

RULES: Final = RuleBook(Path(__file__).parent / "data" / "rules.json", "SGLang", "--sglang")

STATIC_SHARE: Final = 0.88
"""About what SGLang gives to weights and caches by default (`mem_fraction_static`). Nothing is
built from it."""


@dataclass(frozen=True, slots=True)
class PlainCache:
    """The `Cache` of an engine of which nothing but bytes is counted: of `free`, `reserve` are for
    no cache."""

    free: int
    reserve: int
    state: int
    kv_per_token: int

    @property
    def _pool(self) -> int:
        return max(0, self.free - self.reserve)

    def fits(self, sequences: int, context: int) -> bool:
        """Whether `sequences` of `context` tokens can be served at once."""
        return sequences * (self.state + context * self.kv_per_token) <= self._pool

    def max_context(self, sequences: int) -> int:
        """Tokens that each of `sequences` sequences may have; 0 where they do not fit."""
        return max(0, self._pool // sequences - self.state) // max(1, self.kv_per_token)

    def terms(self, sequences: int) -> dict[str, int]:
        """All of `free`, by what it holds when configured for `sequences`."""
        states = min(self._pool, sequences * self.state)
        return {
            "mamba_state": states,
            "kv_cache": self._pool - states,
            "reserve": self.free - self._pool,
        }

    def usable(self, sequences: int) -> int:
        """Bytes that the states of `sequences` and the KV cache may take together."""
        return self._pool


class Sglang:
    """SGLang at one release. Raises `UsageError` for a version without support rules."""

    name: Final = "sglang"
    title: Final = RULES.title
    executor: Final = ""
    package: Final = "sglang"
    version_option: Final = RULES.version_option
    gpu_counts: Final = (1, 2, 4, 8)
    batch_argument: Final = "max_running_requests"

    def __init__(self, version: str | None = None) -> None:
        self.release = RULES.release(version)

    def at(self, version: str) -> Sglang:
        """SGLang at another version. Raises `UsageError` for an unknown one."""
        return Sglang(version)

    def rule(self, gpu: Gpu, quant: Quant, roles: Set[Role]) -> Rule:
        """The rule for a format, which refuses a bundle."""
        return RULES.rule_for(gpu, quant, roles, self.release, set())

    def layout(self, recipe: Recipe) -> str:
        """ModelOpt's, in which it reads FP8 and NVFP4."""
        return MODELOPT

    def split_problem(self, rule: Rule, model: Model, recipe: Recipe, gpus: int) -> str | None:
        """None: the rule has refused already."""
        return None

    def serving(self, recipe: Recipe, workload: Workload) -> Serving:
        """The usual configuration of a server, with what `workload` chooses. Raises `UsageError`
        for a value that is unknown or contradicts another one."""
        return usual(recipe, workload, STATIC_SHARE)

    def serving_problem(self, recipe: Recipe, workload: Workload) -> str | None:
        """None: the rule has refused already."""
        return None

    def fallbacks(self, workload: Workload) -> tuple[Fallback, ...]:
        """None: nothing is built."""
        return ()

    def server_bytes(
        self, model: Model, recipe: Recipe, gpus: int, serving: Serving, rule: Rule
    ) -> Mapping[str, int]:
        """Bytes that a server takes on each GPU beside weights and caches."""
        return server_bytes(model, recipe, gpus, serving.step_tokens, serving.graph_batch)

    def cache(
        self, model: Model, gpu: Gpu, free: int, state: int, kv_per_token: int, serving: Serving
    ) -> PlainCache:
        """The division of `free` bytes of one GPU."""
        reserve = int((1 - serving.cache_share) * gpu.cuda_bytes)
        return PlainCache(free, reserve, state, kv_per_token)

    def rates(self, architecture: Architecture) -> Architecture:
        """Those of the catalogue."""
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
        """Its name: no rule lets a plan get here."""
        return named_part(self)
