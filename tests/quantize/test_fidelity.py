"""Comparing variants layer by layer: the same as with the whole model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nemotron_deploy.core.errors import UsageError
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipes import AGGRESSIVE, CONSERVATIVE
from nemotron_deploy.quantize.calibrate import calibrate
from nemotron_deploy.quantize.fidelity import (
    Comparison,
    Stored,
    Variant,
    compare,
    memory_needed,
)
from nemotron_deploy.quantize.layerwise import transformers_config
from nemotron_deploy.quantize.stream import quantize
from nemotron_deploy.quantize.texts import read_sequences
from nemotron_deploy.quantize.variants import named
from nemotron_deploy.runtime.formats import decode_checkpoint

INT4, FP8 = CONSERVATIVE["int4"], CONSERVATIVE["fp8"]


@pytest.fixture(scope="module")
def source() -> Checkpoint:
    return Checkpoint.open(TINY)


@pytest.fixture(scope="module")
def sequences(source: Checkpoint) -> list[list[int]]:
    return read_sequences(source, None, "heldout")[1][:24]


def run(
    source: Checkpoint, sequences: list[list[int]], *variants: Variant
) -> tuple[Comparison, list[Stored]]:
    stored = [Stored(variant, source) for variant in variants]
    return compare(source, stored, sequences), stored


def log_probabilities(weights: dict[str, Tensor], sequences: list[list[int]]) -> list[Tensor]:
    """Of the whole model in float32, as transformers computes them."""
    from transformers import NemotronHForCausalLM

    model = NemotronHForCausalLM.from_pretrained(
        None,
        config=transformers_config(Checkpoint.open(TINY)),
        state_dict=weights,
        dtype=torch.float32,
    )
    with torch.inference_mode():
        return [model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
                for ids in sequences]  # fmt: skip


def test_figures_are_those_of_the_whole_model(
    source: Checkpoint, sequences: list[list[int]], tmp_path: Path
) -> None:
    quantize(source, INT4, tmp_path)
    weights = decode_checkpoint(load_file(tmp_path / "model.safetensors"), dtype=torch.float32)
    exact = log_probabilities(load_file(TINY / "model.safetensors"), sequences)
    ours = log_probabilities(weights, sequences)
    found, _ = run(source, sequences, Variant("int4-plain", INT4))
    result = found.results[0]

    def perplexity(rows: list[Tensor]) -> float:
        losses = [
            -row[:-1].gather(-1, torch.tensor(ids[1:])[:, None])
            for row, ids in zip(rows, sequences, strict=True)
        ]
        return math.exp(float(torch.cat(losses).mean()))

    divergences = [
        (p.exp() * (p - q)).sum(-1) for p, q in zip(exact, ours, strict=True)
    ]  # fmt: skip
    same = [(p.argmax(-1) == q.argmax(-1)).float() for p, q in zip(exact, ours, strict=True)]
    assert found.tokens == sum(map(len, sequences))
    assert found.perplexity == pytest.approx(perplexity(exact), rel=1e-4)
    assert result.perplexity == pytest.approx(perplexity(ours), rel=1e-4)
    assert result.kl == pytest.approx(float(torch.cat(divergences).mean()), rel=0.02)
    assert result.top1 == pytest.approx(float(torch.cat(same).mean()), abs=2e-3)
    assert 0 < result.layer_errors[1] < 0.2
    assert result.layer_errors[0] == 0, "the first layer is Mamba, which stays as it is"


def test_the_source_diverges_from_itself_by_nothing(
    source: Checkpoint, sequences: list[list[int]]
) -> None:
    found, _ = run(source, sequences, Variant("bf16", CONSERVATIVE["bf16"]))
    assert (found.results[0].kl, found.results[0].top1) == (0, 1)
    assert found.results[0].perplexity == found.perplexity
    assert set(found.results[0].layer_errors) == {0.0}


def test_errors_are_those_of_what_is_written(
    source: Checkpoint, sequences: list[list[int]], tmp_path: Path
) -> None:
    folding = calibrate(source, INT4, smooth=True).folding
    quantize(source, INT4, tmp_path, folding=folding)
    written = decode_checkpoint(load_file(tmp_path / "model.safetensors"), dtype=torch.float32)
    _, (stored,) = run(source, sequences[:1], Variant("int4", INT4, folding=folding))
    assert set(stored.errors) == set(stored.quantized)
    for name, tensor in load_file(TINY / "model.safetensors").items():
        if name in stored.quantized:
            exact = folding(name, tensor).float()
            error = float((written[name] - exact).norm() / exact.norm())
            assert stored.errors[name] == pytest.approx(error, rel=1e-5)


def test_rounding_activations_costs_something(
    source: Checkpoint, sequences: list[list[int]]
) -> None:
    amax = calibrate(source, FP8).amax
    keys = {name: value for name, value in amax.items() if name.endswith("_scale")}
    found, _ = run(
        source,
        sequences,
        Variant("weights", FP8),
        Variant("and keys and values", FP8, amax=keys),
        Variant("and activations", FP8, amax=amax),
        Variant("int4-plain", INT4),
    )
    weights, cache, all_of_it, int4 = found.results
    first_experts, attention = 1, 3
    assert weights.layer_errors[first_experts] == cache.layer_errors[first_experts]
    assert weights.layer_errors[attention] < cache.layer_errors[attention]
    assert weights.layer_errors[first_experts] < all_of_it.layer_errors[first_experts]
    assert all_of_it.kl < int4.kl


def test_memory_grows_with_layers_tokens_and_variants(source: Checkpoint) -> None:
    base = memory_needed(source.model, 1, 1000)
    assert base > max(info.bytes for info in source.tensors.values())
    assert memory_needed(source.model, 2, 1000) - base == 1000 * source.model.hidden_size * 4
    assert memory_needed(source.model, 1, 2000) > base


def test_names_of_variants(source: Checkpoint) -> None:
    keys = "fp8,fp8-aggressive,int4,int4-plain,int4-32,int4-128-plain,nvfp4"
    found = [variant.for_model(source.model) for variant in named(keys)]
    assert [variant.key for variant in found] == keys.split(",")
    assert [variant.smooth for variant in found] == [
        False, False, True, False, True, False, False
    ]  # fmt: skip
    sizes = [variant.recipe.formats[0].group_size for variant in found]
    assert sizes == [0, 0, 64, 64, 32, 128, 16]
    assert (found[0].recipe, found[1].recipe) == (CONSERVATIVE["fp8"], AGGRESSIVE["fp8"])
    assert [variant.calibrates for variant in found] == [
        True, True, True, False, True, False, False
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "bf16", "int3", "int4,int4", "int4-64-64x", "fp8-plain", "int4-16", "fp8-32"]
)
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--compare"):
        named(text)
