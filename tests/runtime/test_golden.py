"""Golden outputs of INT4 `tiny`: healthy servers keep them, planted faults do not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.quantize import recording
from nemotron_deploy.quantize.forced import Source
from nemotron_deploy.quantize.golden_texts import not_recorded
from nemotron_deploy.runtime import contract, golden, startup_check
from nemotron_deploy.runtime.errors import StartError
from nemotron_deploy.runtime.executors.loading import load_model
from nemotron_deploy.runtime.executors.reference import ReferenceExecutor, score
from nemotron_deploy.runtime.generation import Executor
from nemotron_deploy.runtime.golden import Bounds, Comparison, Forced, Recording

Tensors = dict[str, Any]
Change = Callable[[Tensors], Tensors]


@pytest.fixture(scope="module")
def checkpoint(int4_tiny: Path) -> Path:
    return int4_tiny


@pytest.fixture(scope="module")
def recorded(checkpoint: Path) -> Recording:
    source = Source(Checkpoint.open(TINY), CONSERVATIVE["int4"])
    return recording.record(Checkpoint.open(checkpoint), "digest", source)


def run(
    checkpoint: Path, recorded: Recording, dtype: str, change: Change | None = None
) -> Comparison:
    model, _ = load_model(checkpoint, dtype, change)
    return golden.compare(
        recorded.entries, [score(model, entry.case) for entry in recorded.entries]
    )


def swapped(layer: int, one: int, other: int) -> Change:
    """Two experts in each other's place."""

    def change(tensors: Tensors) -> Tensors:
        found = dict(tensors)
        prefix = f"backbone.layers.{layer}.mixer.experts."
        for name in tensors:
            for here, there in ((one, other), (other, one)):
                if name.startswith(f"{prefix}{here}."):
                    found[name] = tensors[name.replace(f"{prefix}{here}.", f"{prefix}{there}.")]
        return found

    return change


def scaled(factor: float) -> Change:
    """Every quantization scale off by the same factor."""
    return lambda tensors: {
        name: tensor * factor if name.endswith(".weight_scale") else tensor
        for name, tensor in tensors.items()
    }


def shuffled_norms_and_negated_projections(tensors: Tensors) -> Tensors:
    """The norms of all layers in each other's place, and two projections of the other sign."""
    changed = dict(tensors)
    norms = [n for n in tensors if re.fullmatch(r"backbone\.layers\.\d+\.norm\.weight", n)]
    for name, other in zip(norms, norms[1:] + norms[:1], strict=True):
        changed[name] = tensors[other]
    projections = [
        name for name in tensors if name.endswith((".o_proj.weight", ".out_proj.weight"))
    ]
    for name in projections[:2]:
        changed[name] = -tensors[name]
    return changed


def nibbles(part: str) -> Change:
    """The two rows of each byte exchanged."""
    return lambda tensors: {
        name: (tensor << 4) | (tensor >> 4)
        if tensor.dtype is torch.uint8 and part in name
        else tensor
        for name, tensor in tensors.items()
    }


FAULTS: dict[str, Change] = {
    **{
        f"experts {one} and {other} of layer {layer} exchanged": swapped(layer, one, other)
        for layer in (1, 4, 6)
        for one, other in ((0, 1), (4, 7), (2, 9), (10, 11))
    },
    "all scales 2 % too large": scaled(1.02),
    "all scales 2 % too small": scaled(0.98),
    "nibbles exchanged everywhere": nibbles(""),
    "nibbles exchanged in one layer": nibbles("layers.4."),
    "nibbles exchanged in one matrix": nibbles("layers.4.mixer.experts.3.up_proj"),
    "norms shuffled and projections negated": shuffled_norms_and_negated_projections,
}


def test_two_error_rates(checkpoint: Path, recorded: Recording) -> None:
    """No healthy precision is refused, no planted fault is missed, in either precision."""
    bounds = recorded.bounds
    assert bounds is not None
    healthy = {
        dtype: run(checkpoint, recorded, dtype) for dtype in ("bfloat16", "float16", "float32")
    }
    alarms = {
        dtype: found.faults(bounds) for dtype, found in healthy.items() if found.faults(bounds)
    }
    assert not alarms, "healthy executors of other precisions"
    # Not by a hair: what is healthy stays below half of each bound.
    for found in healthy.values():
        assert found.divergence < bounds.divergence / 2
        assert found.gain is not None
        assert abs(found.gain) < bounds.gain / 2
    missed = [
        f"{name} in {dtype}"
        for name, change in FAULTS.items()
        for dtype in ("bfloat16", "float16")
        if not run(checkpoint, recorded, dtype, change).faults(bounds)
    ]
    assert not missed


def test_what_is_recorded_can_be_read_again(recorded: Recording, tmp_path: Path) -> None:
    path = tmp_path / golden.FILE
    recorded.write(path)
    again = Recording.read(path)
    assert replace(again, entries=()) == replace(recorded, entries=())
    assert again.source is not None
    assert again.source.agreement > 0.9
    assert [entry.case for entry in again.entries] == [entry.case for entry in recorded.entries]
    for one, other in zip(again.entries, recorded.entries, strict=True):
        for position, original in zip(one.positions, other.positions, strict=True):
            assert position.tokens == original.tokens
            assert position.logprobs == pytest.approx(original.logprobs, abs=1e-4)
            assert len(position.gains) == len(position.tokens)


def prompt(ids: list[Any], forced: list[int], positions: list[Any]) -> dict[str, Any]:
    return {"prompts": [{"text": "a", "prompt": ids, "forced": forced, "positions": positions}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, "format 9"),
        ({"format": 1, "status": "owed", "bounds": None}, "format 1, .* build the bundle again"),
        ({"status": "owed"}, "status 'owed'"),
        ({"status": "not_recorded"}, "does not fit its content"),
        ({"source": {"divergence": 1}}, "cannot be used"),
        ({"prompts": None}, "cannot be used"),
        ({"bounds": {"divergence": 1}}, "cannot be used"),
        (prompt([1.5], [], []), "whole"),
        (prompt([1], [1], []), "not as many"),
        (prompt([1], [1], [[[1, 2], [0.5], []]]), "not as many"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(
    recorded: Recording, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / golden.FILE
    recorded.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(golden.GoldenError, match=message):
        Recording.read(path)


def test_nothing_is_no_number_that_passes() -> None:
    broken = Comparison(8, math.nan, math.nan, math.nan)
    assert len(broken.faults(Bounds(1.0, 0.5))) == 3


@given(st.lists(st.floats(-30, -0.01), min_size=2, max_size=8, unique=True))
def test_a_distribution_is_at_no_distance_from_itself(values: list[float]) -> None:
    total = math.log(sum(map(math.exp, values)) * 1.5)
    scores = {token: value - total for token, value in enumerate(values)}
    entry = golden.Entry("", Forced((1,), (2,)), golden.recorded_positions([scores], None))
    found = golden.compare((entry,), [[scores]])
    assert found.divergence == pytest.approx(0, abs=1e-9)
    assert (found.agreement, found.gain) == (1.0, None)


def test_a_few_prompts_that_went_another_way_are_no_fault(recorded: Recording) -> None:
    """Two of sixteen, however far; a third one is."""

    def seen(off: int) -> list[list[dict[int, float]]]:
        return [
            [
                dict(zip(p.tokens, p.logprobs[::-1] if number < off else p.logprobs, strict=True))
                for p in entry.positions
            ]
            for number, entry in enumerate(recorded.entries)
        ]

    assert golden.compare(recorded.entries, seen(2)).divergence == pytest.approx(0, abs=1e-12)
    assert golden.compare(recorded.entries, seen(3)).divergence > 0.1
    broken = seen(0)
    broken[5][0] = dict.fromkeys(broken[5][0], math.nan)
    assert math.isnan(golden.compare(recorded.entries, broken).divergence)


class OfModel(Executor):
    """An executor of a model that is loaded already; `shift` changes what the tokenizer gives."""

    def __init__(self, checkpoint: Path, change: Change | None = None, shift: int = 0) -> None:
        self.model, self.tokenizer = load_model(checkpoint, change=change)
        self.shift = shift

    def tokens(self, text: str) -> tuple[int, ...]:
        return tuple(token + self.shift for token in self.tokenizer(text).input_ids)

    def score(self, cases: Any) -> list[Any]:
        return [score(self.model, case) for case in cases]

    def submit(self, request: Any, sink: Any) -> None:
        raise NotImplementedError

    @property
    def healthy(self) -> bool:
        return True

    @property
    def load(self) -> Any:
        raise NotImplementedError

    def close(self, timeout: float) -> None:
        pass


@pytest.fixture
def bundle(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle around the checkpoint; this node's cache is a directory of the test."""
    (tmp_path / "engine").mkdir()
    (tmp_path / "checkpoint").symlink_to(checkpoint)
    for name in ("engine.json", "llm_args.yaml"):
        (tmp_path / "engine" / name).write_text("{}")
    monkeypatch.setenv(contract.CACHE.name, str(tmp_path / "cache"))
    monkeypatch.delenv(contract.GOLDEN.name, raising=False)
    return tmp_path


WHY: str = "the machine that builds the bundle has 4 GB free"


@pytest.fixture
def unchecked(bundle: Path, checkpoint: Path) -> Path:
    """A bundle whose golden outputs could not be recorded."""
    not_recorded(checkpoint, "digest", WHY).write(bundle / "engine" / golden.FILE)
    return bundle


def test_a_healthy_server_goes_ready(bundle: Path, recorded: Recording, checkpoint: Path) -> None:
    recorded.write(bundle / "engine" / golden.FILE)
    said: list[str] = []
    executor = ReferenceExecutor(checkpoint, max_active=1)
    try:
        startup_check.require_golden(bundle, executor, said.append)
    finally:
        executor.close(5)
    begins, words, document = said
    assert begins == contract.GOLDEN_BEGINS
    assert words.startswith("golden outputs checked: 512 positions, recorded by its weights layer")
    assert "nats a token from the source" in words
    proof = json.loads(document.partition("JSON: ")[2])
    assert (proof["action"], proof["ok"], proof["baseline"]) == ("checked", True, None)


def test_another_model_is_kept_from_going_ready(
    bundle: Path, recorded: Recording, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.write(bundle / "engine" / golden.FILE)
    wrong = OfModel(checkpoint, swapped(1, 0, 1))
    with pytest.raises(StartError, match="golden outputs differ: divergence"):
        startup_check.require_golden(bundle, wrong, print)
    said: list[str] = []
    monkeypatch.setenv(contract.GOLDEN.name, "off")
    startup_check.require_golden(bundle, wrong, said.append)
    assert said[0] == "golden outputs not checked: $NEMO_DEPLOY_GOLDEN is off"
    monkeypatch.setenv(contract.GOLDEN.name, "maybe")
    with pytest.raises(StartError, match="'maybe'; known are on, require, off"):
        startup_check.require_golden(bundle, wrong, said.append)


def test_another_tokenizer_is_caught_by_its_tokens(
    bundle: Path, recorded: Recording, checkpoint: Path
) -> None:
    recorded.write(bundle / "engine" / golden.FILE)
    proof = startup_check.prove(bundle, OfModel(checkpoint, shift=1))
    assert not proof.ok
    assert "the tokenizer gives other tokens for" in proof.faults[0]
    assert "(16 prompts)" in proof.faults[0]


def test_without_golden_outputs_a_server_is_not_checked(
    unchecked: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one that is plainly wrong: nothing tells, so nothing is called golden."""
    said: list[str] = []
    wrong = OfModel(checkpoint, shuffled_norms_and_negated_projections)
    startup_check.require_golden(unchecked, wrong, said.append)
    begins, words, document = said
    assert begins == contract.GOLDEN_BEGINS
    assert words.startswith(f"golden outputs not checked: {WHY}; this node's baseline: recorded")
    proof = json.loads(document.partition("JSON: ")[2])
    assert (proof["action"], proof["comparison"]) == ("not_checked", None)
    assert proof["baseline"]["action"] == "recorded"
    monkeypatch.setenv(contract.GOLDEN.name, "require")
    with pytest.raises(StartError, match=f"golden outputs were not checked: {WHY}"):
        startup_check.require_golden(unchecked, wrong, said.append)


def test_a_baseline_shows_change_on_this_node(unchecked: Path, checkpoint: Path) -> None:
    healthy = OfModel(checkpoint)
    startup_check.prove(unchecked, healthy)
    (kept,) = (unchecked / "cache").iterdir()
    again = startup_check.prove(unchecked, healthy)
    assert (again.action, again.ok) == ("not_checked", True)
    assert again.baseline is not None
    assert again.baseline.action == "unchanged"
    other = startup_check.prove(unchecked, OfModel(checkpoint, swapped(1, 0, 1)))
    assert (other.action, other.ok) == ("not_checked", False)
    assert other.faults[0].startswith(f"changed since {kept} was recorded: divergence")
    with pytest.raises(StartError, match="outputs changed since an earlier start on this node"):
        startup_check.require_golden(unchecked, OfModel(checkpoint, swapped(1, 0, 1)), print)
    kept.write_text("{")
    with pytest.raises(StartError, match=r"baseline-.*\.json: cannot be used"):
        startup_check.prove(unchecked, healthy)


def test_a_baseline_is_no_golden_output(unchecked: Path, checkpoint: Path) -> None:
    """Put where golden outputs belong, it is refused."""
    healthy = OfModel(checkpoint)
    startup_check.prove(unchecked, healthy)
    (kept,) = (unchecked / "cache").iterdir()
    kept.replace(unchecked / "engine" / golden.FILE)
    with pytest.raises(StartError, match="is what a server recorded of itself"):
        startup_check.prove(unchecked, healthy)


def test_another_engine_or_checkpoint_has_another_baseline(
    unchecked: Path, checkpoint: Path
) -> None:
    def action() -> str:
        baseline = startup_check.prove(unchecked, healthy).baseline
        assert baseline is not None
        return baseline.action

    healthy = OfModel(checkpoint)
    assert action() == "recorded"
    (unchecked / "engine" / "llm_args.yaml").write_text("max_batch_size: 3")
    assert action() == "recorded"
    not_recorded(checkpoint, "another", WHY).write(unchecked / "engine" / golden.FILE)
    assert action() == "recorded"
    assert action() == "unchanged"


def test_a_cache_that_cannot_be_written_is_said(unchecked: Path, checkpoint: Path) -> None:
    (unchecked / "cache").write_text("a file")
    proof = startup_check.prove(unchecked, OfModel(checkpoint))
    assert proof.ok
    assert proof.baseline is not None
    assert proof.baseline.action == "not_saved"
    assert "could not be saved" in proof.baseline.detail


def test_a_bundle_without_the_file_is_not_checked(bundle: Path, checkpoint: Path) -> None:
    proof = startup_check.prove(bundle, OfModel(checkpoint))
    assert (proof.action, proof.baseline) == ("not_checked", None)
    assert "golden.json is missing; build the bundle again" in proof.detail
