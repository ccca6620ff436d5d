"""What `--compare` accepts: a format and, after dashes, how it differs from the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..core.errors import UsageError
from ..model.recipe import FP8_LAYERS, GROUP_SIZES, RECIPES, ROW, Recipe, recipe_for

PLAIN: Final = "plain"
WHOLE: Final = "row"


@dataclass(frozen=True, slots=True)
class Named:
    """A variant by name, not yet calibrated."""

    key: str
    recipe: Recipe
    smooth: bool

    @property
    def calibrates(self) -> bool:
        return self.recipe.activation_scales or self.smooth


def named(text: str) -> tuple[Named, ...]:
    """The variants of a comma-separated list: `fp8`, `fp8-aggressive`, `nvfp4`, `int8`, `int4`,
    which is smoothed, `int4-plain`, which is not, and `int8-32`, `int4-128-plain` for other group
    sizes, `int8-row` for one scale a row.

    Raises `UsageError` for a name that is none, or that stands there twice.
    """
    keys = [part.strip() for part in text.split(",")]
    if len(set(keys)) != len(keys):
        raise UsageError(f"--compare {text}: a format is listed twice")
    return tuple(_variant(key) for key in keys)


def _variant(key: str) -> Named:
    quant, *rest = key.split("-")
    sizes = {str(size): size for size in GROUP_SIZES} | {WHOLE: ROW}
    name = next((name for name in sizes if name in rest), None)
    group = None if name is None else sizes[name]
    layers = next((name for name in FP8_LAYERS if name in rest), None)
    plain = PLAIN in rest
    known: set[str | None] = set()
    if quant == "int4" and name != WHOLE:
        known = {name, PLAIN}
    elif quant == "int8":
        known = {name}
    elif quant == "fp8":
        known = {layers}
    if quant not in RECIPES or quant == "bf16" or not set(rest) <= known:
        raise UsageError(
            f"--compare: {key!r} is not a known format; known formats are fp8, fp8-aggressive, "
            "nvfp4, int8, int4, int4-plain (without smoothing), int4-32 and int4-128 (group sizes, "
            "also of int8), int4-32-plain, int8-row (one scale a row)"
        )
    return Named(key, recipe_for(quant, group, layers), quant == "int4" and not plain)
