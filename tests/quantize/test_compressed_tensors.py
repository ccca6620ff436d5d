"""The compressed-tensors layout, judged by the package that defines it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.utils.match import is_match
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipe import RECIPES, recipe_for
from nemotron_deploy.quantize.calibrate import calibrate
from nemotron_deploy.quantize.layouts import LAYOUTS, layout_for
from nemotron_deploy.quantize.stream import quantize
from nemotron_deploy.runtime import formats

LAYOUT = LAYOUTS["compressed-tensors"]
PREFIXES = ("backbone.", "model.")
"""The checkpoint's own, and what vLLM makes of it."""


@pytest.fixture(scope="module", params=[32, 64])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    checkpoint, recipe = Checkpoint.open(TINY), recipe_for("int4", request.param)
    folding = calibrate(checkpoint, recipe, smooth=True).folding
    quantize(checkpoint, recipe, out, layout=LAYOUT, folding=folding)
    return out


def configuration(path: Path) -> QuantizationConfig:
    fields = json.loads((path / "config.json").read_text())["quantization_config"]
    return QuantizationConfig.model_validate(fields)


def test_their_decoder_reads_our_values(written: Path) -> None:
    tensors = load_file(written / "model.safetensors")
    (scheme,) = configuration(written).config_groups.values()
    source = load_file(TINY / "model.safetensors")
    modules = [name.removesuffix(".weight_packed") for name in tensors if "_packed" in name]
    assert len(modules) == sum("expert" in name for name in source)
    ours = formats.decode_checkpoint(tensors, dtype=torch.bfloat16)
    for module in modules:
        state = {
            suffix: tensors[f"{module}.{suffix}"]
            for suffix in ("weight_packed", "weight_scale", "weight_shape")
        }
        theirs = PackedQuantizationCompressor.decompress(dict(state), scheme)["weight"]
        assert theirs is not None
        assert torch.equal(theirs.bfloat16(), ours[f"{module}.weight"]), module
        assert tuple(state["weight_shape"]) == source[f"{module}.weight"].shape


@given(
    rows=st.integers(1, 6),
    groups=st.integers(1, 4),
    group_size=st.sampled_from([32, 64, 128]),
    seed=st.integers(0, 2**31),
)
def test_integers_are_nearest_to_the_scale_as_stored(
    rows: int, groups: int, group_size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, groups * group_size, generator=generator).bfloat16()
    packed, scale = formats.encode_int4_columns(weight, group_size)
    assert scale.dtype is torch.bfloat16
    decoded = formats.decode_int4_columns(packed, scale)
    steps = scale.float().repeat_interleave(group_size, dim=1)
    beyond = (weight.float() / steps).abs() > 7.5  # only what the scale's own rounding cut off
    error = (decoded - weight.float()).abs()
    assert bool(((error <= steps / 2 * (1 + 1e-6)) | beyond).all())


def test_the_configuration_matches_every_expert_and_nothing_else(written: Path) -> None:
    config = configuration(written)
    (scheme,) = config.config_groups.values()
    tensors = load_file(written / "model.safetensors")
    linear = torch.nn.Linear(1, 1)
    quantized = {name.rpartition(".")[0] for name in tensors if name.endswith("weight_packed")}
    plain = {
        name.rpartition(".")[0]
        for name, tensor in tensors.items()
        if name.endswith(".weight") and tensor.ndim > 1
    }
    # vLLM looks up this name too, which the model does not have.
    quantized |= {name.replace("up_proj", "gate_proj") for name in quantized}
    assert plain
    for prefix in PREFIXES:
        for name in quantized:
            renamed = name.replace("backbone.", prefix)
            assert is_match(renamed, linear, scheme.targets, config.ignore), renamed
        for name in plain:
            renamed = name.replace("backbone.", prefix)
            if prefix == "model.":
                renamed = renamed.replace("embeddings", "embed_tokens")
            assert not is_match(renamed, linear, scheme.targets, config.ignore), renamed
    for entry in config.ignore:
        assert any(not is_match(name, linear, "Linear", [entry]) for name in plain), entry
    assert (scheme.weights.num_bits, scheme.weights.symmetric) == (4, True)
    assert scheme.weights.strategy == "group"
    assert scheme.input_activations is None


def test_the_rest_is_the_source_to_the_byte(written: Path) -> None:
    tensors, source = (load_file(p / "model.safetensors") for p in (written, TINY))
    for name, tensor in source.items():
        if "expert" not in name and not name.endswith(("norm.weight", "gate.weight")):
            assert tensors[name].dtype is tensor.dtype
            assert torch.equal(tensors[name], tensor), name
    config = json.loads((written / "config.json").read_text())
    del config["quantization_config"]
    assert config == json.loads((TINY / "config.json").read_text())
    assert not (written / "hf_quant_config.json").exists()


def test_every_layout_names_who_reads_it() -> None:
    for layout in LAYOUTS.values():
        for key in layout.formats:
            readers = layout.readers(RECIPES[key])
            assert readers
            assert all("{path}" in reader.serve for reader in readers if reader.serve)
    vllm = layout_for("compressed-tensors", RECIPES["int4"]).readers(RECIPES["int4"])[0]
    assert vllm.serve.startswith("vllm serve {path}")
