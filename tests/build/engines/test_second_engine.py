"""The planner knows engines by their protocol only: a stand-in with other rules is planned too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.build.engines import registry
from nemotron_deploy.build.engines.base import Engine, Fallback, OnCompiled
from nemotron_deploy.build.engines.rules import Release, Rule
from nemotron_deploy.cli import run
from nemotron_deploy.core.checks import Check
from nemotron_deploy.model.architecture import Model, Role
from nemotron_deploy.model.formats import Quant
from nemotron_deploy.model.recipe import Recipe
from nemotron_deploy.model.spec import Architecture, EnginePart, Gpu, Plan, Serving, Workload
from nemotron_deploy.model.weight_format import MODELOPT

SEQUENCE_TOKENS = 4096


@dataclass(frozen=True)
class PageCache:
    """Pages of one size, one for the state and one for each 4096 tokens of a sequence."""

    free: int
    page: int

    def fits(self, sequences: int, context: int) -> bool:
        pages = sequences * (1 + -(-context // SEQUENCE_TOKENS))
        return pages * self.page <= self.free

    def max_context(self, sequences: int) -> int:
        return max(0, self.free // self.page // sequences - 1) * SEQUENCE_TOKENS

    def terms(self, sequences: int) -> dict[str, int]:
        return {"pages": self.free}

    def usable(self, sequences: int) -> int:
        return max(0, self.free)


class StandIn:
    """An engine that runs everything but INT4, on one or three GPUs."""

    name = "stand-in"
    title = "Stand-in"
    executor = "scripted"
    package = "stand_in"
    version_option = "--stand-in"
    batch_argument = "n"
    gpu_counts = (1, 3)
    release = Release("only", ">=1", "registry.test/stand-in:1", "stand-in", {}, "a test")

    def __init__(self, version: str | None = None) -> None:
        pass

    def at(self, version: str) -> Engine:
        return StandIn(version)

    def rule(self, gpu: Gpu, quant: Quant, roles: Set[Role]) -> Rule:
        refused = quant.key == "int4"
        status, reason = ("refused", "No INT4.") if refused else ("supported", "Runs.")
        return Rule(f"own-{quant.key}", quant.key, status, reason, (), "a test", "", "read")

    def split_problem(self, rule: Rule, model: Model, recipe: Recipe, gpus: int) -> str | None:
        return None

    def serving(self, recipe: Recipe, workload: Workload) -> Serving:
        return Serving(2048, 64, 1.0, recipe.kv_dtype, "BF16")

    def serving_problem(self, recipe: Recipe, workload: Workload) -> str | None:
        return None

    def fallbacks(self, workload: Workload) -> tuple[Fallback, ...]:
        return ()

    def server_bytes(
        self, model: Model, recipe: Recipe, gpus: int, serving: Serving, rule: Rule
    ) -> Mapping[str, int]:
        return {"everything": 2**30}

    def layout(self, recipe: Recipe) -> str:
        return MODELOPT

    def cache(
        self, model: Model, gpu: Gpu, free: int, state: int, kv_per_token: int, serving: Serving
    ) -> PageCache:
        return PageCache(free, max(state, SEQUENCE_TOKENS * kv_per_token))

    def rates(self, architecture: Architecture) -> Architecture:
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
        return EnginePart(
            self.name, self.title, self.executor, ">=1", self.release.image, args={"n": sequences}
        )

    def require_tools(self, plan: Plan) -> None:
        raise NotImplementedError

    def inputs(self, plan: Plan) -> Any:
        raise NotImplementedError

    def emit(
        self,
        target: Path,
        plan: Plan,
        model: Model,
        recipe: Recipe,
        checkpoint: Path,
        on_compiled: OnCompiled | None = None,
    ) -> None:
        raise NotImplementedError

    def check(self, target: Path) -> list[Check]:
        return [Check("stand-in", True, "")]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ENGINES", {**registry.ENGINES, "stand-in": StandIn})


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    run(["plan", "--gpu", "h200", "--engine", "stand-in", *arguments, "--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_it_plans_by_its_own_memory_rules(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "--quant", "fp8", "--context", "4096", "--concurrency", "8")
    assert (found["status"], found["rule"]) == ("supported", "own-fp8")
    assert (found["engine"]["name"], found["engine"]["args"]) == ("stand-in", {"n": 8})
    assert set(found["memory"]) == {"driver", "weights", "everything", "pages"}
    page = max(found["state_bytes_per_sequence"], SEQUENCE_TOKENS * found["kv_bytes_per_token"])
    assert found["max_concurrency"] == found["memory"]["pages"] // (2 * page)


def test_its_refusals_name_what_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "--quant", "int4")
    assert (found["status"], found["rule"]) == ("refused", "own-int4")
    assert "--quant bf16" in found["alternatives"]
    found = planned(capsys, "--quant", "fp8", "--gpus", "2")
    assert found["reasons"] == ["Stand-in runs Nemotron-H on 1, 3 GPUs, not on 2."]


def test_the_matrix_and_the_view_take_it(capsys: pytest.CaptureFixture[str]) -> None:
    matrix = planned(capsys, "--matrix")
    assert [cell["supported"] for cell in matrix["cells"]] == [True, True, True, False, True]
    run(["plan", "--gpu", "h200", "--quant", "fp8", "--engine", "stand-in"])
    shown = capsys.readouterr().out
    assert "supported by released Stand-in" in shown
    assert "registry.test/stand-in:1" in shown


def test_its_directory_is_checked_by_it(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text('{"engine": "stand-in"}')
    assert [check.name for check in registry.check(tmp_path)] == ["stand-in"]
