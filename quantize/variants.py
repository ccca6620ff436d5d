"""What `--compare` accepts: a format and, after dashes, how it differs from the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..core.errors import UsageError
from ..model.architecture import Model
from ..model.format_request import NAMES, FormatRequest, requested
from ..model.recipe import Recipe
from ..model.weight_format import GROUP_SIZES, ROW

PLAIN: Final = "plain"
SIZES: Final = {str(size): size for size in GROUP_SIZES} | {"row": ROW}


@dataclass(frozen=True, slots=True)
class VariantRecipe:
    """A variant for one model, not yet calibrated."""

    key: str
    recipe: Recipe
    smooth: bool

    @property
    def calibrates(self) -> bool:
        return self.recipe.calibrates or self.smooth


@dataclass(frozen=True, slots=True)
class Named:
    """A variant by name. `plain` ones are not smoothed."""

    key: str
    format: FormatRequest
    plain: bool

    def for_model(self, model: Model) -> VariantRecipe:
        """The variant of `model`. Raises `RefusedError` where no recipe was published for it."""
        recipe = self.format.for_model(model).recipe
        return VariantRecipe(self.key, recipe, recipe.smoothable and not self.plain)


def named(text: str) -> tuple[Named, ...]:
    """The variants of a comma-separated list: `fp8`, `fp8-aggressive` and other recipes, `nvfp4`,
    `int8`, `int4`, which is smoothed, `int4-plain`, which is not, and `int8-32`, `int4-128-plain`
    for other group sizes, `int8-row` for one scale a row.

    Raises `UsageError` for a name that is none, or that stands there twice.
    """
    keys = [part.strip() for part in text.split(",")]
    if len(set(keys)) != len(keys):
        raise UsageError(f"--compare {text}: a format is listed twice")
    return tuple(_variant(key) for key in keys)


def _variant(key: str) -> Named:
    quant, *rest = key.split("-")
    recipe = next((word for word in rest if word in NAMES), None)
    size = next((word for word in rest if word in SIZES), None)
    plain = PLAIN in rest
    used = {word for word in (recipe, size) if word} | ({PLAIN} if plain else set())
    unknown = UsageError(
        f"--compare: {key!r} is not a known format; known formats are fp8, int8, int4 and nvfp4, "
        "each also with a recipe (fp8-aggressive), int4-plain (without smoothing), int4-32 and "
        "int4-128 (group sizes, also of int8), int4-32-plain, int8-row (one scale a row)"
    )
    if quant == "bf16" or (plain and quant != "int4") or set(rest) != used:
        raise unknown
    try:
        wanted = requested(quant, recipe, SIZES[size] if size else None)
    except UsageError:
        raise unknown from None
    return Named(key, wanted, plain)
