"""INT8 weights: names, options and layouts. Values and bytes are tested with the other formats'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nemotron_deploy.api.quantize_options import options_for
from nemotron_deploy.core.errors import RefusedError, UsageError
from nemotron_deploy.model.architecture import Role, TensorGroup
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.format_request import requested
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.model.weight_format import GROUP_SIZES, ROW, WeightFormat
from nemotron_deploy.quantize.layouts import LAYOUTS, weights_bytes
from nemotron_deploy.quantize.stream import quantize
from nemotron_deploy.quantize.variants import named


def test_names_of_variants() -> None:
    model = Checkpoint.open(TINY).model
    found = [variant.for_model(model) for variant in named("int8,int8-32,int8-128,int8-row")]
    assert [variant.recipe.formats[0].group_size for variant in found] == [64, 32, 128, ROW]
    assert not any(variant.smooth or variant.calibrates for variant in found)


@pytest.mark.parametrize("text", ["int8-plain", "int8-0", "int8-row-32", "int8-16", "int4-row"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--compare"):
        named(text)


@pytest.mark.parametrize(
    ("quant", "group", "message"),
    [
        ("int8", 48, "--group-size 48: known are 32, 64, 128, and 0 for whole rows of INT8"),
        ("int4", ROW, "--group-size 0, whole rows, belongs to --quant int8, not to int4"),
        ("fp8", 64, "--group-size belongs to --quant int4 and --quant int8, not to fp8"),
    ],
)
def test_group_sizes_that_do_not_go(quant: str, group: int, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        requested(quant, None, group)
    assert str(refused.value) == message


def test_it_is_neither_smoothed_nor_calibrated(tmp_path: Path) -> None:
    options = options_for(CONSERVATIVE["int8"])
    assert not options.smooth
    assert not options.calibrates
    with pytest.raises(UsageError, match="--smooth works with INT4 experts only"):
        options_for(CONSERVATIVE["int8"], smooth=True)
    assert options_for(CONSERVATIVE["int8"], low_disk=True).low_disk


@pytest.mark.parametrize(
    ("group", "columns", "message"),
    [
        (64, 96, r"groups of 64 do not divide its input width.*--group-size 32"),
        (ROW, 96, r"its input width is no multiple of 64, which whole rows need.*--group-size 32"),
        (64, 100, r"groups of 64 do not divide its input width.*--quant fp8"),
    ],
)
def test_widths_that_do_not_divide_are_refused_by_name(
    group: int, columns: int, message: str
) -> None:
    (some, *_) = (g for g in Checkpoint.open(TINY).model.tensors() if g.role is Role.EXPERT)
    narrow: TensorGroup = replace(some, shape=(128, columns))
    for layout in LAYOUTS.values():
        with pytest.raises(RefusedError, match=message) as refused:
            layout.stored(WeightFormat("int8", group), narrow)
        assert "mixer.experts." in str(refused.value)


def test_an_odd_number_of_rows_is_no_obstacle() -> None:
    (some, *_) = (g for g in Checkpoint.open(TINY).model.tensors() if g.role is Role.EXPERT)
    odd = replace(some, shape=(127, 128))
    weight, scale = CONSERVATIVE["int8"].stored(odd)
    assert (weight.dtype, weight.shape, scale.shape) == ("I8", (127, 128), (127, 2))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("group", [*GROUP_SIZES[:2], ROW])
def test_what_is_planned_is_what_is_written(tmp_path: Path, layout: str, group: int) -> None:
    checkpoint, recipe = Checkpoint.open(TINY), CONSERVATIVE["int8"].with_group_size(group)
    quantize(checkpoint, recipe, tmp_path, layout=LAYOUTS[layout])
    tensors = load_file(tmp_path / "model.safetensors")
    written = sum(tensor.nbytes for tensor in tensors.values())
    assert written == weights_bytes(LAYOUTS[layout], recipe, checkpoint.model)
    if layout == "modelopt":
        assert written == recipe.weights_bytes(checkpoint.model)
        dtypes = {tensor.dtype for name, tensor in tensors.items() if ".experts." in name}
        assert dtypes == {torch.int8, torch.float32}
