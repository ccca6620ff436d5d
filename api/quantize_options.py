"""The options of `quantize` that a command line gives, checked before anything is read."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ..core.errors import BadInputError, RefusedError, UsageError
from ..model.formats import quant_named
from ..model.recipe import Recipe, recipe_for
from ..quantize.layouts import DEFAULT, layout_for
from ..quantize.options import Options


def options_for(
    quant: str,
    *,
    layout: str = DEFAULT.key,
    group_size: int | None = None,
    fp8_layers: str | None = None,
    calibration: Path | None = None,
    smooth: bool | None = None,
    device: str = "auto",
    heldout: Path | None = None,
    low_disk: bool = False,
) -> Options:
    """The options that a command line gives; `smooth` None means: wherever it does something.

    Raises `UsageError` and `RefusedError` for what does not go together, `BadInputError` for a
    calibration file or a package that is not there.
    """
    recipe = recipe_for(quant_named(quant).key, group_size, fp8_layers)
    if smooth and recipe.format != "int4":
        raise UsageError(f"--smooth is for --quant int4; {recipe.key} has no groups to protect")
    if low_disk:
        _require_one_reading(recipe, smooth, heldout)
    smooths = recipe.format == "int4" and not low_disk if smooth is None else smooth
    options = Options(
        recipe, layout_for(layout, recipe), calibration, smooths, device, heldout, low_disk
    )
    if calibration is not None and not options.calibrates:
        raise UsageError(
            f"--calibration is of no use here: {recipe.key} without smoothing needs none"
        )
    for file in (calibration, heldout):
        if file is not None and not file.is_file():
            raise BadInputError(f"{file}: there is no such text file")
    _require_packages(options)
    return options


def _require_one_reading(recipe: Recipe, smooth: bool | None, heldout: Path | None) -> None:
    """Raise `RefusedError` for what reads the weights before or after they are encoded."""
    why = "needs all weights at once, and --low-disk lets go of each shard once it is encoded"
    if recipe.activation_scales:
        raise RefusedError(
            f"--low-disk with --quant {recipe.key} (rule: low-disk): its calibration {why}. What "
            "works instead: --quant int4 --low-disk, or leave --low-disk out"
        )
    if smooth:
        raise RefusedError(
            f"--low-disk with --smooth (rule: low-disk): its calibration {why}. What works "
            "instead: --no-smooth, or leave --low-disk out"
        )
    if heldout is not None:
        raise RefusedError(
            f"--low-disk with --heldout (rule: low-disk): running the model {why}. What works "
            "instead: leave one of the two out"
        )


def _require_packages(options: Options) -> None:
    """Raise `BadInputError` naming a package that this work needs and that is not installed."""
    needed = ["torch"]
    if options.calibrates:
        needed += ["transformers", "safetensors"]
    if options.recipe.activation_scales:
        needed.append("modelopt")
    for name in needed:
        if find_spec(name) is None:
            plain = "; or do without calibration: --no-smooth" if options.smooth else ""
            raise BadInputError(
                f"quantizing needs the package {name}; install it with "
                f"pip install 'nemotron-deploy[quantize]'{plain if name != 'torch' else ''}"
            )
