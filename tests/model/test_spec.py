"""Numbers of the packaged models, against figures that do not come from this code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nemotron_deploy.core.errors import BadInputError, RefusedError, UsageError
from nemotron_deploy.model.architecture import Model, Role
from nemotron_deploy.model.catalog import (
    CONFIGURATIONS,
    DEFAULT_CHECKPOINT,
    TINY,
    gpu,
    gpus,
    known_model,
)
from nemotron_deploy.model.config import read_model
from nemotron_deploy.model.recipes import CONSERVATIVE


def nano() -> Model:
    model = known_model("nemotron-3-nano-30b-a3b")
    assert model is not None
    return model


def test_nano_has_the_published_numbers() -> None:
    model = nano()
    # 31.6 B parameters; 3.2 B active, 3.6 B with the embedding table (NVIDIA's model card).
    assert model.parameters_total == 31_577_940_288
    assert round(model.parameters_active / 1e9, 1) == 3.2
    embedding = sum(g.parameters for g in model.tensors() if g.role is Role.EMBEDDING)
    assert round((model.parameters_active + embedding) / 1e9, 1) == 3.6
    # Thirteen shards, 63.16 GB.
    assert round(model.bytes / 1e9, 2) == 63.16
    experts = sum(g.parameters for g in model.tensors() if g.role is Role.EXPERT)
    assert experts == 23 * 128 * 2 * 2688 * 1856


def test_nano_cache_sizes() -> None:
    model = nano()
    assert model.kv_bytes_per_token("BF16") == 6144
    assert model.kv_bytes_per_token("F8_E4M3") == 3072
    assert model.state_bytes_per_sequence("F32") == 23 * (64 * 64 * 128 * 4 + 3 * 6144 * 2)
    assert round(384 * model.state_bytes_per_sequence("F32") / 1e9, 1) == 18.8


def test_mamba_shapes_of_nano() -> None:
    mamba = nano().mamba
    assert (mamba.inner, mamba.conv_channels, mamba.in_proj_rows) == (4096, 6144, 10304)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_known_models_read_and_sum_up(name: str) -> None:
    model = known_model(name.upper())
    assert model is not None
    assert model.parameters_total > model.parameters_active > 0
    names = [n for group in model.tensors() for n in group.names()]
    assert len(names) == len(set(names))


def test_default_checkpoint_is_known() -> None:
    assert known_model(DEFAULT_CHECKPOINT) == nano()


def test_super_has_latent_experts_and_mtp() -> None:
    model = known_model("nemotron-3-super-120b-a12b")
    assert model is not None
    expert = next(group for group in model.tensors() if group.role is Role.EXPERT)
    assert expert.shape == (2688, 1024)
    assert any(group.role is Role.MTP for group in model.tensors())


@pytest.mark.parametrize(
    ("quant", "gigabytes", "tolerance"),
    # BF16: thirteen shards of 63.16 GB; FP8: 31.4 GiB of weights in Model-Optimizer's tutorial.
    [("bf16", 63.16, 0.001), ("fp8", 31.4 * 2**30 / 1e9, 0.02), ("int4", 20.27, 0.001)],
)
def test_weights_by_format(quant: str, gigabytes: float, tolerance: float) -> None:
    size = CONSERVATIVE[quant].weights_bytes(nano()) / 1e9
    assert size == pytest.approx(gigabytes, rel=tolerance)


def config(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((TINY / "config.json").read_text())
    values |= changes
    return {key: value for key, value in values.items() if value != "remove"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_size": "remove"}, "hidden_size"),
        ({"hidden_size": "128"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hybrid_override_pattern": "remove"}, "hybrid_override_pattern"),
        ({"hybrid_override_pattern": "MXE"}, "hybrid_override_pattern"),
        ({"num_hidden_layers": 8}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"n_groups": 3}, "n_groups"),
        ({"n_group": 5}, "n_group"),
        ({"num_experts_per_tok": 1000}, "num_experts_per_tok"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"layers_block_type": ["mamba"]}, "layers_block_type"),
        ({"layers_block_type": ["conv"]}, "layers_block_type"),
        ({"architectures": "remove", "model_type": "remove"}, "architectures"),
    ],
)
def test_a_bad_configuration_is_refused_by_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInputError, match=f"`{field}`"):
        read_model(config(**changes), "x")


def test_both_spellings_of_the_pattern_read_alike() -> None:
    kinds = {"M": "mamba", "E": "moe", "*": "attention"}
    pattern = config()["hybrid_override_pattern"]
    types = [kinds[letter] for letter in pattern]
    spelled = config(hybrid_override_pattern="remove", layers_block_type=types)
    assert read_model(spelled, "x").pattern == pattern


def test_another_architecture_is_refused_with_what_works() -> None:
    with pytest.raises(RefusedError, match=r"LlamaForCausalLM.*What works instead"):
        read_model(config(architectures=["LlamaForCausalLM"]), "x")


@pytest.mark.parametrize(
    ("spelling", "key"),
    [
        ("H100", "h100"),
        ("NVIDIA-H100-80GB-HBM3", "h100"),
        ("nvidia h100 pcie", "h100"),
        ("A100-SXM4-40GB", "a100-40gb"),
        ("a100_40gb", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100"),
        ("L40S", "l40s"),
    ],
)
def test_gpus_are_found_in_usual_spellings(spelling: str, key: str) -> None:
    assert gpu(spelling).key == key


def test_an_unknown_gpu_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"b9000.*h100.*a100"):
        gpu("b9000")


def test_product_labels_belong_to_one_gpu() -> None:
    labels = [label for known in gpus().values() for label in known.product_labels]
    assert len(labels) == len(set(labels))


def test_a_group_that_does_not_divide_is_refused_with_the_tensor() -> None:
    recipe = CONSERVATIVE["int4"].with_group_size(128)
    with pytest.raises(RefusedError, match=r"experts\.0\.down_proj.*1856.*--group-size 64"):
        recipe.weights_bytes(nano())
