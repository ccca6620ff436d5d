"""Smoothing: exact when nothing is rounded, and worth it when something is."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nemotron_deploy.model.catalog import TINY, text
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.quantize.calibrate import Calibration, calibrate
from nemotron_deploy.quantize.layerwise import transformers_config
from nemotron_deploy.quantize.stream import quantize
from nemotron_deploy.runtime.formats import decode_checkpoint

INT4 = CONSERVATIVE["int4"]


plant = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "planted.py"))["plant"]


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` with planted outlier channels."""
    return Path(plant(TINY, tmp_path_factory.mktemp("planted") / "tiny"))


def log_probabilities(checkpoint: Path, weights: dict[str, Tensor]) -> Tensor:
    """Of every next token of some held-out text, in float32: [tokens, vocabulary]."""
    from transformers import AutoTokenizer, NemotronHForCausalLM

    config = transformers_config(Checkpoint.open(checkpoint))
    model = NemotronHForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = []
    with torch.inference_mode():
        for sample in text.documents(9, 150, split="heldout"):
            ids = torch.tensor([tokenizer(sample).input_ids[:256]])
            rows.append(model(ids, use_cache=False).logits[0].log_softmax(-1))
    return torch.cat(rows)


def divergence(reference: Tensor, other: Tensor) -> float:
    """Mean KL divergence per token, nats."""
    return float((reference.exp() * (reference - other)).sum(-1).mean())


Quantized = Callable[[Path, Calibration | None], dict[str, Tensor]]


@pytest.fixture
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """Weights of a checkpoint after INT4, with or without a calibration's folding."""

    def run(source: Path, found: Calibration | None) -> dict[str, Tensor]:
        out = tmp_path_factory.mktemp("int4")
        quantize(Checkpoint.open(source), INT4, out, folding=found.folding if found else None)
        stored = load_file(out / "model.safetensors")
        return decode_checkpoint(stored, dtype=torch.float32)

    return run


def test_folding_alone_leaves_the_function_unchanged() -> None:
    checkpoint = Checkpoint.open(TINY)
    folding = calibrate(checkpoint, INT4, smooth=True).folding
    source = load_file(TINY / "model.safetensors")
    folded = {name: folding(name, tensor).to(torch.float64) for name, tensor in source.items()}
    changed = {name for name in source if not torch.equal(folded[name], source[name].double())}
    assert any("experts" in name for name in changed)
    assert any("norm" in name for name in changed)
    reference = log_probabilities(TINY, {n: t.clone() for n, t in source.items()})
    other = log_probabilities(TINY, {n: t.float() for n, t in folded.items()})
    # Float32 rounding, and what it decides between experts that are all but tied.
    assert divergence(reference, other) < 1e-6
    assert float((reference - other).abs().median()) < 1e-4


def test_smoothing_lowers_the_divergence(quantized: Quantized) -> None:
    reference = log_probabilities(TINY, load_file(TINY / "model.safetensors"))
    found = calibrate(Checkpoint.open(TINY), INT4, smooth=True)
    plain = divergence(reference, log_probabilities(TINY, quantized(TINY, None)))
    smoothed = divergence(reference, log_probabilities(TINY, quantized(TINY, found)))
    assert smoothed < plain


def test_smoothing_undoes_planted_outliers(outliers: Path, quantized: Quantized) -> None:
    source = load_file(outliers / "model.safetensors")
    reference = log_probabilities(outliers, source)
    original = log_probabilities(TINY, load_file(TINY / "model.safetensors"))
    assert divergence(original, reference) < 1e-6, "planting changed the function"
    found = calibrate(Checkpoint.open(outliers), INT4, smooth=True)
    plain = divergence(reference, log_probabilities(outliers, quantized(outliers, None)))
    smoothed = divergence(reference, log_probabilities(outliers, quantized(outliers, found)))
    assert smoothed < 0.7 * plain
    for choice in found.folding.choices.values():
        assert choice.smoothed < choice.plain
        assert choice.hidden_strength > 0


def test_other_tensors_stay_as_they_are(tmp_path: Path) -> None:
    found = calibrate(Checkpoint.open(TINY), INT4, smooth=True)
    quantize(Checkpoint.open(TINY), INT4, tmp_path, folding=found.folding)
    ours, source = load_file(tmp_path / "model.safetensors"), load_file(TINY / "model.safetensors")
    for name, tensor in source.items():
        if name in found.folding.inputs or name in found.folding.outputs:
            continue
        assert ours[name].dtype is tensor.dtype
        assert torch.equal(ours[name], tensor), name
    gates = [name for name in ours if name.endswith("gate.weight")]
    assert all(ours[name].dtype is source[name].dtype for name in gates)
