"""The compressed-tensors layout, judged by the package that defines it."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
from nemotron_deploy.model.recipe import Recipe
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.model.weight_format import ROW
from nemotron_deploy.quantize.calibrate import calibrate
from nemotron_deploy.quantize.layouts import LAYOUTS, layout_for
from nemotron_deploy.quantize.stream import quantize
from nemotron_deploy.runtime import formats

LAYOUT = LAYOUTS["compressed-tensors"]
PREFIXES = ("backbone.", "model.")
"""The checkpoint's own, and what vLLM makes of it."""


@dataclass(frozen=True)
class Written:
    """A checkpoint in this layout, and the recipe it follows."""

    path: Path
    recipe: Recipe

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = load_file(self.path / "model.safetensors")
        return tensors


def _recipe(quant: str, group_size: int) -> Recipe:
    return CONSERVATIVE[quant].with_group_size(group_size)


@pytest.fixture(scope="module", params=[("int4", 32), ("int4", 64), ("int8", 64), ("int8", ROW)])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    out = tmp_path_factory.mktemp("packed")
    checkpoint, recipe = Checkpoint.open(TINY), _recipe(*request.param)
    folding = calibrate(checkpoint, recipe, smooth=recipe.smoothable).folding
    quantize(checkpoint, recipe, out, layout=LAYOUT, folding=folding)
    return Written(out, recipe)


def configuration(written: Written) -> QuantizationConfig:
    fields = json.loads((written.path / "config.json").read_text())["quantization_config"]
    return QuantizationConfig.model_validate(fields)


def test_their_decoder_reads_our_values(written: Written) -> None:
    tensors = written.tensors
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
    bits=st.sampled_from([4, 8]),
)
def test_integers_are_nearest_to_the_scale_as_stored(
    rows: int, groups: int, group_size: int, seed: int, bits: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, groups * group_size, generator=generator).bfloat16()
    encode = formats.encode_int4_columns if bits == 4 else formats.encode_int8_columns
    packed, scale = encode(weight, group_size)
    assert scale.dtype is torch.bfloat16
    decoded = formats.decode(packed, scale, shape=torch.tensor(weight.shape))
    steps = scale.float().repeat_interleave(group_size, dim=1)
    largest = 2 ** (bits - 1) - 0.5
    beyond = (weight.float() / steps).abs() > largest  # only what the scale's own rounding cut off
    error = (decoded - weight.float()).abs()
    assert bool(((error <= steps / 2 * (1 + 1e-6)) | beyond).all())


def test_our_tensors_are_those_of_their_encoder_byte_for_byte(written: Written) -> None:
    """Given our scales, with which the largest weight of a group becomes 7 or 127, not 7.5."""
    (scheme,) = configuration(written).config_groups.values()
    tensors = written.tensors
    modules = [name.removesuffix(".weight_packed") for name in tensors if "_packed" in name]
    source = load_file(TINY / "model.safetensors")
    plain = written.recipe.key == "int8"  # what INT4 stores was smoothed before
    for module in modules:
        scale = tensors[f"{module}.weight_scale"]
        if plain:
            weight = source[f"{module}.weight"]
        else:
            weight = formats.decode_int4_columns(tensors[f"{module}.weight_packed"], scale)
        state = {"weight": weight.float(), "weight_scale": scale.float()}
        theirs = PackedQuantizationCompressor.compress(state, scheme)
        assert set(theirs) == {"weight_packed", "weight_scale", "weight_shape"}
        for suffix in ("weight_packed", "weight_shape"):
            assert torch.equal(theirs[suffix], tensors[f"{module}.{suffix}"]), (module, suffix)


def test_the_configuration_matches_every_expert_and_nothing_else(written: Written) -> None:
    config = configuration(written)
    (scheme,) = config.config_groups.values()
    tensors, recipe = written.tensors, written.recipe
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
    weights = scheme.weights
    (expected,) = recipe.formats
    assert (weights.num_bits, weights.symmetric) == (expected.integer_bits, True)
    assert weights.strategy == ("group" if expected.group_size else "channel")
    assert weights.group_size == (expected.group_size or None)
    assert scheme.input_activations is None


def test_the_rest_is_the_source_to_the_byte(written: Written) -> None:
    tensors, source = written.tensors, load_file(TINY / "model.safetensors")
    for name, tensor in source.items():
        if "expert" not in name and not name.endswith(("norm.weight", "gate.weight")):
            assert tensors[name].dtype is tensor.dtype
            assert torch.equal(tensors[name], tensor), name
    config = json.loads((written.path / "config.json").read_text())
    del config["quantization_config"]
    assert config == json.loads((TINY / "config.json").read_text())
    assert not (written.path / "hf_quant_config.json").exists()


def test_every_layout_names_who_reads_it() -> None:
    for layout in LAYOUTS.values():
        for key in layout.formats:
            readers = layout.readers(CONSERVATIVE[key])
            assert readers
            assert all("{path}" in reader.serve for reader in readers if reader.serve)
    vllm = layout_for("compressed-tensors", CONSERVATIVE["int4"]).readers(CONSERVATIVE["int4"])[0]
    assert vllm.serve.startswith("vllm serve {path}")
