"""Our quantized `tiny` against ModelOpt's own export of it, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nemotron_deploy.core.errors import RefusedError
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.quantize.calibrate import calibrate
from nemotron_deploy.quantize.stream import quantize
from nemotron_deploy.quantize.variants import named

FORMATS = ["int4", "int4-32", "int8-row", "fp8", "fp8-aggressive", "nvfp4"]


@pytest.fixture(scope="module", params=FORMATS)
def both(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    modelopt_export: Callable[[str], Any],
) -> tuple[Path, Any]:
    """Our output directory and ModelOpt's export, in one format."""
    checkpoint, (variant,) = Checkpoint.open(TINY), named(request.param)
    recipe = variant.for_model(checkpoint.model).recipe
    amax = calibrate(checkpoint, recipe).amax if recipe.calibrates else None
    out = tmp_path_factory.mktemp(f"ours-{request.param}")
    quantize(checkpoint, recipe, out, activation_amax=amax)
    return out, modelopt_export(request.param)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_every_quantized_tensor_is_equal_byte_for_byte(both: tuple[Path, Any]) -> None:
    out, theirs = both
    ours = load_file(out / "model.safetensors")
    assert set(ours) == set(theirs.tensors)
    different = {name for name in ours if raw(ours[name]) != raw(theirs.tensors[name])}
    # ModelOpt writes the whole model in BF16; ours keeps what the source stores in F32.
    assert different == {name for name in ours if name.endswith(("A_log", ".D", "dt_bias"))}
    source = load_file(TINY / "model.safetensors")
    for name in different:
        assert ours[name].dtype is torch.float32
        assert torch.equal(ours[name], source[name])
        assert torch.equal(ours[name].bfloat16(), theirs.tensors[name])


def test_configuration_says_the_same(both: tuple[Path, Any]) -> None:
    out, theirs = both
    config = json.loads((out / "config.json").read_text())
    added = config.pop("quantization_config")
    assert config == json.loads((TINY / "config.json").read_text())
    for key in ("quant_algo", "quant_method", "producer"):
        assert added[key] == theirs.config[key]
    assert added.get("config_groups") == theirs.config.get("config_groups")
    assert added.get("kv_cache_scheme") == theirs.config.get("kv_cache_scheme")
    hf_quant = json.loads((out / "hf_quant_config.json").read_text())
    ours = hf_quant["quantization"]
    assert ours.pop("exclude_modules") == added["ignore"]
    expected = theirs.hf_quant_config["quantization"]
    # ModelOpt claims a `pre_quant_scale` for plain rounding although it writes no such tensor.
    assert ours.pop("pre_quant_scale", None) in (False, None)
    expected.pop("pre_quant_scale", None)
    assert ours == expected


def test_ignore_lists_resolve_to_the_same_modules(both: tuple[Path, Any]) -> None:
    out, theirs = both
    ours = json.loads((out / "config.json").read_text())["quantization_config"]["ignore"]
    tensors = load_file(out / "model.safetensors")
    modules = {name.rpartition(".")[0] for name, value in tensors.items() if value.ndim > 1}
    quantized = {name.rpartition(".")[0] for name in tensors if name.endswith(".weight_scale")}

    def matched(patterns: list[str]) -> set[str]:
        return {m for m in modules if any(fnmatchcase(m, pattern) for pattern in patterns)}

    assert matched(ours) == matched(theirs.ignored) == modules - quantized
    for entry in ours:
        assert matched([entry]), f"{entry} resolves to nothing"
        assert all(ord(letter) >= 32 for letter in entry)


def test_groups_that_do_not_divide_are_refused_by_name(tmp_path: Path) -> None:
    recipe = CONSERVATIVE["int4"].with_group_size(128)
    with pytest.raises(RefusedError, match=r"experts\.0\.down_proj\.weight .*--group-size 64"):
        quantize(Checkpoint.open(TINY), recipe, tmp_path)
    assert not list(tmp_path.iterdir())
