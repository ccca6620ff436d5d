"""Calibration layer by layer: the same as with the whole model, and resumable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nemotron_deploy.model.catalog import TINY, text
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.quantize.calibrate import calibrate
from nemotron_deploy.quantize.layerwise import layers


def test_layers_one_by_one_give_what_the_whole_model_gives() -> None:
    from transformers import AutoTokenizer, NemotronHForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    sequences = [tokenizer(sample).input_ids for sample in text.documents(4, 3)]
    for layer in layers(Checkpoint.open(TINY), sequences):
        layer.inputs = layer.run()
        last = layer
    model = NemotronHForCausalLM.from_pretrained(TINY, dtype=torch.bfloat16).model
    with torch.inference_mode():
        for ids, hidden in zip(sequences, last.inputs, strict=True):
            whole = model(torch.tensor([ids]), use_cache=False).last_hidden_state
            assert torch.equal(model.norm_f(hidden), whole)


def test_every_expert_is_reported_with_its_tokens() -> None:
    checkpoint = Checkpoint.open(TINY)
    found = calibrate(checkpoint, CONSERVATIVE["int4"], smooth=True)
    moe = checkpoint.model.moe
    assert moe is not None
    layers_seen = [index for index, letter in enumerate(checkpoint.model.pattern) if letter == "E"]
    assert list(found.expert_tokens) == layers_seen
    for counts in found.expert_tokens.values():
        assert len(counts) == moe.num_experts
        assert sum(counts) == found.tokens * moe.top_k
    assert found.record().source.startswith("built-in")


class KilledError(BaseException):
    """Stands for the process ending at this point."""


@pytest.mark.parametrize("after", [2, 4, 6])
def test_an_interrupted_calibration_goes_on_at_its_layer(tmp_path: Path, after: int) -> None:
    checkpoint, recipe = Checkpoint.open(TINY), CONSERVATIVE["int4"]
    done: list[int] = []

    def killed(count: int) -> None:
        if count == after:
            raise KilledError

    with pytest.raises(KilledError):
        calibrate(checkpoint, recipe, smooth=True, work=tmp_path, on_layer=killed)
    found = calibrate(checkpoint, recipe, smooth=True, work=tmp_path, on_layer=done.append)
    assert len(done) < len(checkpoint.model.pattern)
    whole = calibrate(checkpoint, recipe, smooth=True)
    assert found.record() == whole.record()
    for side in ("inputs", "outputs"):
        ours, theirs = getattr(found.folding, side), getattr(whole.folding, side)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_kv_ranges_are_collected_with_the_activations() -> None:
    checkpoint = Checkpoint.open(TINY)
    found = calibrate(checkpoint, CONSERVATIVE["fp8"])
    attention = checkpoint.model.pattern.index("*")
    for key in ("k", "v"):
        assert found.amax[f"backbone.layers.{attention}.mixer.{key}_proj.{key}_scale"] > 0
