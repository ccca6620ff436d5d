"""Engines are found by name, and their rules are read with care."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.build.engines import registry
from nemotron_deploy.build.engines.base import named_part
from nemotron_deploy.build.engines.rules import RuleBook
from nemotron_deploy.build.engines.tensorrt_llm.support import RULES
from nemotron_deploy.build.planner.plan import plan
from nemotron_deploy.core.errors import BadInputError, UsageError
from nemotron_deploy.model.catalog import gpu
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.tests.build.nano import nano, planned


def test_an_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown engine 'orca'; known are tensorrt-llm, vllm$"):
        registry.engine("orca")
    with pytest.raises(UsageError, match=r"'vlm'; .*, sglang; did you mean vllm\?"):
        registry.require_known("vlm")


@pytest.mark.parametrize("name", registry.ENGINES)
def test_an_engine_describes_itself(name: str) -> None:
    engine = registry.engine(name)
    assert engine.name == name
    assert engine.title
    assert engine.executor
    assert 1 in engine.gpu_counts
    assert named_part(engine).image == engine.release.image


def test_the_part_of_a_plan() -> None:
    part = planned("h100", "fp8").engine
    assert (part.name, part.title, part.executor) == ("tensorrt-llm", "TensorRT-LLM", "trtllm")
    assert part.args["max_batch_size"] > 0
    refused = planned("a100", "fp8").engine
    assert (refused.name, refused.backend, refused.args) == ("tensorrt-llm", "none", {})


@pytest.mark.parametrize("name", registry.ONLY_PLANNED)
@pytest.mark.parametrize("quant", QUANTS)
def test_what_is_planned_only_never_gets_a_bundle(name: str, quant: str) -> None:
    found = plan(nano(), gpu("h100"), QUANTS[quant], Workload(), registry.planned(name))
    assert (found.status, found.engine.name) == ("refused", name)
    assert "--engine vllm" in found.alternatives
    command = any("sglang.launch_server" in text for text in found.alternatives)
    assert command is not quant.startswith("int")
    assert ("asserts the activation SiLU" in found.reasons[0]) is quant.startswith("int")


def book(tmp_path: Path, **changes: Any) -> RuleBook:
    """TensorRT-LLM's rules, with the first rule changed."""
    document = json.loads(RULES.path.read_text(encoding="utf-8"))
    document["rules"][0] |= changes
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return RuleBook(path, "TensorRT-LLM", "--trtllm")


def test_a_rule_with_an_unknown_field_is_an_error_that_names_both(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nvfp4-w4a4-image: unknown field sm_min"):
        assert book(tmp_path, sm_min=80).rules


def test_a_rule_with_an_unknown_status_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nvfp4-w4a4-image: status 'maybe' is unknown"):
        assert book(tmp_path, status="maybe").rules


def test_rules_have_names_of_their_own() -> None:
    assert len({rule.key for rule in RULES.rules}) == len(RULES.rules)


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"engine": "sglang"}', '{"engine": []}'])
def test_an_engine_directory_without_a_known_engine_fails_its_check(
    tmp_path: Path, record: str
) -> None:
    (tmp_path / "engine.json").write_text(record)
    (check,) = registry.check(tmp_path)
    assert not check.ok
    assert "engine.json" in check.detail


def test_a_missing_engine_directory_fails_its_check(tmp_path: Path) -> None:
    (check,) = registry.check(tmp_path / "none")
    assert not check.ok
