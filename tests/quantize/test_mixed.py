"""Checkpoints with several formats: by role, by layer, in both layouts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.utils.match import is_match
from safetensors.torch import load_file

from nemotron_deploy.core.errors import RefusedError
from nemotron_deploy.model.architecture import Role
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipe import EXPERT_ROLES, Choice, Recipe
from nemotron_deploy.model.recipes import AGGRESSIVE, FP8, INT4, INT8, NVFP4
from nemotron_deploy.quantize.calibrate import calibrate
from nemotron_deploy.quantize.layouts import LAYOUTS, layout_for
from nemotron_deploy.quantize.stream import quantize
from nemotron_deploy.runtime import formats
from nemotron_deploy.runtime.executors.loading import load_model

MAMBA = frozenset({Role.MAMBA_PROJ})
ATTENTION = frozenset({Role.ATTENTION})

BY_LAYER = Recipe(
    "fp8",
    (
        Choice(MAMBA, None, frozenset({0})),
        Choice(EXPERT_ROLES | MAMBA | ATTENTION, FP8),
        Choice(frozenset({Role.HEAD}), NVFP4),
    ),
    "F8_E4M3",
)
"""FP8 but for the first Mamba layer; the head NVFP4."""

PARTS = Recipe(
    "int4",
    (
        Choice(MAMBA, INT8, frozenset({2})),
        Choice(EXPERT_ROLES | MAMBA, INT4),
        Choice(ATTENTION, INT8),
    ),
)


@dataclass(frozen=True)
class Written:
    path: Path
    recipe: Recipe

    @property
    def config(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        return document

    @property
    def formats(self) -> dict[str, str | None]:
        """The format of each module with a weight matrix, by name."""
        found: dict[str, str | None] = {}
        for group in Checkpoint.open(TINY).model.tensors():
            chosen = self.recipe.format_of(group)
            for name in group.names() if len(group.shape) > 1 else ():
                found[name.rpartition(".")[0]] = chosen.key if chosen else None
        return found


def written(out: Path, recipe: Recipe, layout: str) -> Written:
    checkpoint = Checkpoint.open(TINY)
    amax = calibrate(checkpoint, recipe).amax if recipe.calibrates else None
    quantize(checkpoint, recipe, out, layout=layout_for(layout, recipe), activation_amax=amax)
    return Written(out, recipe)


@pytest.fixture(scope="module")
def by_layer(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written(tmp_path_factory.mktemp("by-layer"), BY_LAYER, "modelopt")


def test_each_tensor_has_its_format(by_layer: Written) -> None:
    tensors = load_file(by_layer.path / "model.safetensors")
    for module, key in by_layer.formats.items():
        scales = {name.rpartition(".")[2] for name in tensors if name.startswith(f"{module}.")}
        assert ("weight_scale" in scales) is (key is not None), module
        assert ("weight_scale_2" in scales) is (key == "nvfp4"), module
        assert ("input_scale" in scales) is (key == "fp8"), module
    assert len([name for name in tensors if name.endswith(("k_scale", "v_scale"))]) == 2


def test_what_is_written_weighs_what_was_summed(by_layer: Written) -> None:
    model = Checkpoint.open(TINY).model
    assert Checkpoint.open(by_layer.path).bytes == BY_LAYER.weights_bytes(model)


def test_both_configurations_say_what_each_module_has(by_layer: Written) -> None:
    stated = json.loads((by_layer.path / "hf_quant_config.json").read_text())["quantization"]
    assert (stated["quant_algo"], stated["kv_cache_quant_algo"]) == ("MIXED_PRECISION", "FP8")
    names = {"FP8": "fp8", "W4A16_NVFP4": "nvfp4"}
    listed = {name: names[row["quant_algo"]] for name, row in stated["quantized_layers"].items()}
    assert listed == {name: key for name, key in by_layer.formats.items() if key}
    config = by_layer.config["quantization_config"]
    assert config["quant_algo"] == "MIXED_PRECISION"
    assert config["quantized_layers"] == stated["quantized_layers"]


def test_the_configuration_is_what_modelopt_makes_of_its_own(by_layer: Written) -> None:
    from modelopt.torch.export.convert_hf_config import convert_hf_quant_config_format

    stated = json.loads((by_layer.path / "hf_quant_config.json").read_text())
    theirs = convert_hf_quant_config_format(stated)
    ours = by_layer.config["quantization_config"]
    by_targets = {tuple(row["targets"]): row for row in theirs["config_groups"].values()}
    assert {tuple(row["targets"]): row for row in ours["config_groups"].values()} == by_targets
    for field in ("quant_algo", "quantized_layers", "ignore", "kv_cache_scheme"):
        assert ours[field] == theirs[field], field


@pytest.mark.parametrize("recipe", [BY_LAYER, PARTS, AGGRESSIVE["int4"], AGGRESSIVE["int8"]])
def test_it_loads_and_answers_nearly_as_its_source(recipe: Recipe, tmp_path: Path) -> None:
    made = written(tmp_path, recipe, "modelopt")
    ids = torch.tensor([[5, 9, 17, 33, 101, 7]])
    logits = []
    for path in (TINY, made.path):
        model, _ = load_model(path)
        with torch.inference_mode():
            logits.append(model.float()(ids).logits[0].log_softmax(-1))
    divergence = float((logits[0].exp() * (logits[0] - logits[1])).sum(-1).mean())
    assert 0 < divergence < 0.1  # 0.058 is the largest; exchanged layers give over 1


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written(tmp_path_factory.mktemp("packed"), PARTS, "compressed-tensors")


def test_every_module_finds_its_scheme(packed: Written) -> None:
    config = QuantizationConfig.model_validate(packed.config["quantization_config"])
    linear = torch.nn.Linear(1, 1)
    schemes = list(config.config_groups.values())
    assert len(schemes) == 2
    for name, key in packed.formats.items():
        for prefix in ("backbone.", "model."):
            renamed = name.replace("backbone.", prefix)
            renamed = renamed.replace("model.embeddings", "model.embed_tokens")
            ignored = is_match(renamed, linear, "Linear", config.ignore) is False
            assert ignored is (key is None), renamed
            if key is None:
                continue
            others = [row for row in schemes if "Linear" not in row.targets]
            named = [row for row in others if is_match(renamed, linear, row.targets)]
            (scheme,) = named or [row for row in schemes if "Linear" in row.targets]
            assert scheme.weights is not None
            assert scheme.weights.num_bits == int(key.removeprefix("int")), renamed


def test_a_layout_without_place_is_refused() -> None:
    assert layout_for("compressed-tensors", PARTS) is LAYOUTS["compressed-tensors"]
    with pytest.raises(RefusedError, match=r"supports int4, int8, not fp8, nvfp4 .*modelopt"):
        layout_for("compressed-tensors", BY_LAYER)
    with_kv = Recipe("int4", PARTS.choices, "F8_E4M3")
    with pytest.raises(RefusedError, match=r"not scales of an FP8 KV cache .*modelopt"):
        layout_for("compressed-tensors", with_kv)


def test_values_are_those_of_each_format_alone(packed: Written) -> None:
    source = load_file(TINY / "model.safetensors")
    tensors = formats.decode_checkpoint(load_file(packed.path / "model.safetensors"), torch.float32)
    for module, key in packed.formats.items():
        name = f"{module}.weight"
        if key is None:
            assert torch.equal(tensors[name], source[name].float()), name
            continue
        encode = formats.encode_int4_columns if key == "int4" else formats.encode_int8_columns
        stored, scale = encode(source[name], 64)
        shape = torch.tensor(source[name].shape)
        assert torch.equal(tensors[name], formats.decode(stored, scale, shape=shape)), name
