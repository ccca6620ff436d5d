"""Golden outputs of INT4 `tiny`: healthy servers keep them, planted faults do not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.runtime import contract, golden, startup_check
from nemotron_deploy.runtime.executors.loading import load_model
from nemotron_deploy.runtime.executors.reference import ReferenceExecutor, continuation, score
from nemotron_deploy.runtime.generation import Executor, StartError
from nemotron_deploy.runtime.golden import Bounds, Comparison, Forced, Golden
from nemotron_deploy.triton_repo import recording

Tensors = dict[str, Any]
Change = Callable[[Tensors], Tensors]


@pytest.fixture(scope="module")
def checkpoint(int4_tiny: Path) -> Path:
    return int4_tiny


@pytest.fixture(scope="module")
def recorded(checkpoint: Path) -> Golden:
    return recording.record(checkpoint, "digest")


def run(checkpoint: Path, recorded: Golden, dtype: str, change: Change | None = None) -> Comparison:
    model, _ = load_model(checkpoint, dtype, change)
    return golden.compare(recorded, [score(model, entry.case) for entry in recorded.entries])


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
}


def test_two_error_rates(checkpoint: Path, recorded: Golden) -> None:
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


def test_what_is_recorded_can_be_read_again(recorded: Golden, tmp_path: Path) -> None:
    path = tmp_path / golden.FILE
    recorded.write(path)
    again = Golden.read(path)
    assert (again.checkpoint, again.by, again.bounds) == ("digest", recorded.by, recorded.bounds)
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
        ({"prompts": None}, "cannot be used"),
        ({"bounds": {"divergence": 1}}, "cannot be used"),
        (prompt([1.5], [], []), "whole"),
        (prompt([1], [1], []), "not as many"),
        (prompt([1], [1], [[[1, 2], [0.5], []]]), "not as many"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(
    recorded: Golden, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / golden.FILE
    recorded.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(golden.GoldenError, match=message):
        Golden.read(path)


def test_nothing_is_no_number_that_passes() -> None:
    broken = Comparison(8, math.nan, math.nan, math.nan)
    assert len(broken.faults(Bounds(1.0, 0.5))) == 3


@given(st.lists(st.floats(-30, -0.01), min_size=2, max_size=8, unique=True))
def test_a_distribution_is_at_no_distance_from_itself(values: list[float]) -> None:
    total = math.log(sum(map(math.exp, values)) * 1.5)
    scores = {token: value - total for token, value in enumerate(values)}
    entry = golden.Entry("", Forced((1,), (2,)), golden.recorded_positions([scores], None))
    found = golden.compare(Golden("", "", (entry,)), [[scores]])
    assert found.divergence == pytest.approx(0, abs=1e-9)
    assert (found.agreement, found.gain) == (1.0, None)


class OfModel(Executor):
    """An executor of a model that is loaded already; `shift` changes what the tokenizer gives."""

    def __init__(self, checkpoint: Path, change: Change | None = None, shift: int = 0) -> None:
        self.model, self.tokenizer = load_model(checkpoint, change=change)
        self.shift = shift

    def tokens(self, text: str) -> tuple[int, ...]:
        return tuple(token + self.shift for token in self.tokenizer(text).input_ids)

    def continuations(self, prompts: Any, count: int) -> list[tuple[int, ...]]:
        return [continuation(self.model, prompt, count) for prompt in prompts]

    def score(self, cases: Any) -> list[Any]:
        return [score(self.model, case) for case in cases]

    def submit(self, request: Any, sink: Any) -> None:
        raise NotImplementedError

    @property
    def healthy(self) -> bool:
        return True

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


def owed(checkpoint: Path) -> Golden:
    _, tokenizer = load_model(checkpoint)
    tokens = [tokenizer(text).input_ids for text in recording.PROMPTS]
    return recording.owed(tokens, "digest", "owed: too large")


def test_a_healthy_server_goes_ready(bundle: Path, recorded: Golden, checkpoint: Path) -> None:
    recorded.write(bundle / "engine" / golden.FILE)
    said: list[str] = []
    executor = ReferenceExecutor(checkpoint, max_active=1)
    try:
        startup_check.require_golden(bundle, executor, said.append)
    finally:
        executor.close(5)
    (line,) = said
    assert line.startswith("golden outputs checked: 512 positions, recorded by reference executor")


def test_another_model_is_kept_from_going_ready(
    bundle: Path, recorded: Golden, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.write(bundle / "engine" / golden.FILE)
    wrong = OfModel(checkpoint, swapped(1, 0, 1))
    with pytest.raises(StartError, match="golden outputs differ: divergence"):
        startup_check.require_golden(bundle, wrong, print)
    said: list[str] = []
    monkeypatch.setenv(contract.GOLDEN.name, "off")
    startup_check.require_golden(bundle, wrong, said.append)
    assert "not compared" in said[0]


def test_another_tokenizer_is_caught_by_its_tokens(
    bundle: Path, recorded: Golden, checkpoint: Path
) -> None:
    recorded.write(bundle / "engine" / golden.FILE)
    proof = startup_check.prove(bundle, OfModel(checkpoint, shift=1))
    assert not proof.ok
    assert "the tokenizer gives other tokens for" in proof.faults[0]
    assert "(16 prompts)" in proof.faults[0]


def test_what_is_owed_is_recorded_on_the_node_and_held_to(bundle: Path, checkpoint: Path) -> None:
    owed(checkpoint).write(bundle / "engine" / golden.FILE)
    healthy = OfModel(checkpoint)
    assert startup_check.prove(bundle, healthy).action == "recorded"
    (kept,) = (bundle / "cache").iterdir()
    again = startup_check.prove(bundle, healthy)
    assert (again.action, again.ok) == ("checked", True)
    assert "on this node" in again.detail
    assert not startup_check.prove(bundle, OfModel(checkpoint, swapped(1, 0, 1))).ok
    kept.write_text("{")
    with pytest.raises(StartError, match=r"golden-.*\.json: cannot be used"):
        startup_check.prove(bundle, healthy)


def test_another_engine_or_checkpoint_owes_again(bundle: Path, checkpoint: Path) -> None:
    path = bundle / "engine" / golden.FILE
    owed(checkpoint).write(path)
    healthy = OfModel(checkpoint)
    startup_check.prove(bundle, healthy)
    (bundle / "engine" / "llm_args.yaml").write_text("max_batch_size: 3")
    assert startup_check.prove(bundle, healthy).action == "recorded"
    replace(owed(checkpoint), checkpoint="another").write(path)
    assert startup_check.prove(bundle, healthy).action == "recorded"


def test_a_cache_that_cannot_be_written_is_said(bundle: Path, checkpoint: Path) -> None:
    owed(checkpoint).write(bundle / "engine" / golden.FILE)
    (bundle / "cache").write_text("a file")
    proof = startup_check.prove(bundle, OfModel(checkpoint))
    assert proof.ok
    assert "could not be saved" in proof.detail


def test_a_bundle_without_golden_outputs_says_so(bundle: Path, checkpoint: Path) -> None:
    assert startup_check.prove(bundle, OfModel(checkpoint)).action == "none"
