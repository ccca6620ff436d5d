"""`quantize`: a checkpoint in another format, in a directory of its own."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..build.plan import quant_named
from ..errors import BadInputError, RefusedError, UsageError
from ..files import new_directory, require_space
from ..recipe import RECIPES, Recipe
from .progress import Progress, Silent
from .source import resolve

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


def recipe_named(name: str) -> Recipe:
    """The recipe for `--quant name`. Raises `RefusedError` for a format that is not written."""
    quant = quant_named(name)
    if quant.key == "nvfp4":
        raise RefusedError(
            "NVFP4 is not written by this version (rule: nvfp4-encoder). What works instead: "
            "--quant fp8, --quant int4, or NVIDIA's own NVFP4 checkpoint"
        )
    return RECIPES[quant.key]


def require_packages(recipe: Recipe, smooth: bool) -> None:
    """Raise `BadInputError` naming a package that this work needs and that is not installed."""
    needed = ["torch"]
    if recipe.activation_scales or smooth:
        needed += ["transformers", "safetensors"]
    if recipe.activation_scales:
        needed.append("modelopt")
    for name in needed:
        if find_spec(name) is None:
            raise BadInputError(
                f"quantizing needs the package {name}; install it with "
                "pip install 'nemotron-deploy[quantize]'"
            )


def require_smoothable(recipe: Recipe, smooth: bool) -> None:
    """Raise `UsageError` when smoothing is asked for where it does nothing."""
    if smooth and recipe.format != "int4":
        raise UsageError(f"--smooth is for --quant int4; {recipe.key} has no groups to protect")


def quantize(
    checkpoint: str,
    quant_name: str,
    out: Path,
    calibration: Path | None = None,
    smooth: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Quantize `checkpoint` into the new directory `out`; gives what `quantize --json` prints.

    `smooth` folds activation-aware scales into INT4 experts. Raises `UsageError` for other formats.
    """
    recipe = recipe_named(quant_name)
    require_smoothable(recipe, smooth)
    require_packages(recipe, smooth)
    opened = resolve(checkpoint).require_checkpoint()
    require_space(out, recipe.weights_bytes(opened.model))
    with new_directory(out) as work:
        record = quantize_into(opened, recipe, work, calibration, smooth, progress or Silent())
    return {"out": str(out), **record}


def quantize_into(
    checkpoint: Checkpoint,
    recipe: Recipe,
    out: Path,
    calibration: Path | None,
    smooth: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Quantize into the existing, empty directory `out`, calibrating first where needed."""
    from ..quantize.calibrate import calibrate
    from ..quantize.stream import quantize as stream

    measured = None
    if recipe.activation_scales or smooth:
        advance = progress.step("calibrate", len(checkpoint.model.pattern), unit="layers")
        measured = calibrate(checkpoint, recipe, calibration, smooth=smooth, on_layer=advance)
    advance = progress.step("quantize", checkpoint.bytes, unit="bytes")
    summary = stream(
        checkpoint,
        recipe,
        out,
        activation_amax=measured.amax if measured else None,
        fold=measured.folding if measured and smooth else None,
        on_bytes=advance,
    )
    record: dict[str, Any] = {**asdict(summary), "format": recipe.summary}
    if measured:
        record["calibration"] = measured.record()
    return record
