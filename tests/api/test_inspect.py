"""`inspect` gives one typed result, for people, programs and Python."""

from __future__ import annotations

import json

import pytest

from nemotron_deploy.api.inspect import inspect
from nemotron_deploy.cli import run

KEYS = {
    "architecture", "bytes", "dtypes", "experts", "hidden_size", "kv_bytes_per_token", "layers",
    "made_by", "max_positions", "model", "parameters_active", "parameters_active_with_embedding",
    "parameters_by_role", "parameters_total", "pattern", "quantization", "quantized", "schema",
    "source",
    "state_bytes_per_sequence", "tensors", "notes", "differences", "vocab_size", "weights",
}  # fmt: skip


def test_the_document_is_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "--checkpoint", "tiny", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == KEYS
    assert document == inspect("tiny").to_json()
    assert document["schema"] == 1


def test_the_result_is_typed() -> None:
    result = inspect("nemotron-3-nano-30b-a3b")
    assert (result.layers.mamba, result.layers.attention, result.layers.mlp) == (23, 6, 0)
    assert result.experts is not None
    assert (result.experts.routed, result.experts.per_token) == (128, 6)
    assert result.kv_bytes_per_token.bf16 == 2 * result.kv_bytes_per_token.fp8
    assert sum(result.parameters_by_role.values()) == result.parameters_total


def test_a_model_without_experts_has_none() -> None:
    result = inspect("nemotron-nano-9b-v2")
    assert result.experts is None
    assert result.layers.mlp > 0


@pytest.mark.parametrize("checkpoint", ["tiny", "nemotron-nano-9b-v2"])
def test_the_view_names_layers_and_weights(
    capsys: pytest.CaptureFixture[str], checkpoint: str
) -> None:
    assert run(["inspect", "--checkpoint", checkpoint]) == 0
    shown = capsys.readouterr().out
    assert "Mamba state" in shown
    assert ("routed" in shown) == (inspect(checkpoint).experts is not None)
