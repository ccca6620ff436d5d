"""The options of `quantize` that a command line gives, checked before anything is read."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import RefusedError, UsageError
from ..core.extras import require
from ..model.recipe import Recipe
from ..quantize.layouts import DEFAULT, layout_for
from ..quantize.options import Options
from .preflight import require_device, require_readable


def options_for(
    recipe: Recipe,
    *,
    layout: str = DEFAULT.key,
    calibration: Path | None = None,
    smooth: bool | None = None,
    device: str = "auto",
    heldout: Path | None = None,
    low_disk: bool = False,
) -> Options:
    """The options of a command line, with the recipe that the model gets. With `smooth` None, INT4
    experts are smoothed where that is possible.

    Raises `UsageError` and `RefusedError` for what does not go together, `BadInputError` for a text
    file, a package or a device that cannot be used.
    """
    if smooth and not recipe.smoothable:
        raise UsageError(f"--smooth works with INT4 experts only, not with --quant {recipe.key}")
    if low_disk:
        require_one_reading(recipe, smooth, heldout)
    smooths = recipe.smoothable and not low_disk if smooth is None else smooth
    options = Options(
        recipe, layout_for(layout, recipe), calibration, smooths, device, heldout, low_disk
    )
    if calibration is not None and not options.calibrates:
        raise UsageError(
            f"--calibration has no effect here: {recipe.key} without smoothing needs none"
        )
    require_readable(calibration, heldout)
    _require_packages(options)
    require_device(device)
    return options


def taking_over(
    recipe: Recipe, *, device: str, low_disk: bool, layout: str = DEFAULT.key
) -> Options:
    """The options for a checkpoint that is quantized as `recipe` says already. Raises as
    `options_for`."""
    options = Options(
        recipe, layout_for(layout, recipe), device=device, low_disk=low_disk, taken_over=True
    )
    _require_packages(options)
    require_device(device)
    return options


def require_one_reading(recipe: Recipe, smooth: bool | None, heldout: Path | None) -> None:
    """Raise `RefusedError` for options that need the weights before or after they are encoded."""
    why = "needs all weights at once, and --low-disk deletes each shard once it is encoded"
    if recipe.calibrates:
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
    """Raise `MissingPackageError` for a package that this work needs and that is not installed."""
    require("torch", purpose="quantizing")
    if options.calibrates:
        instead = "; or leave calibration out with --no-smooth" if options.smooth else ""
        require("transformers", "safetensors", purpose="calibration", instead=instead)
    if options.calibrates and options.recipe.calibrates:
        require("modelopt", purpose="FP8 calibration")
