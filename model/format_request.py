"""A format as a command line asks for it, and as a model gets it: `--quant`, `--recipe` and
`--group-size`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from ..core.errors import BadInputError, RefusedError, UsageError
from .architecture import Model
from .catalog import known_model
from .formats import QUANTS, Quant
from .quantized import StoredFormat
from .recipe import Recipe
from .recipe_file import read_recipe
from .recipes import AGGRESSIVE, CONSERVATIVE, PUBLISHED, Published
from .weight_format import GROUP_SIZES, INTEGER_BITS, ROW

NAMES: Final = ("published", "conservative", "aggressive")
"""What `--recipe` may be besides a file."""

FILE_SUFFIXES: Final = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class FormatRequest:
    """A format as it is asked for, before the model is known: a key of `QUANTS`, one of `NAMES` or
    None for the model's default, a group size other than the recipe's, or a recipe of one's own."""

    quant: str
    name: str | None = None
    group_size: int | None = None
    custom: Recipe | None = None

    def __str__(self) -> str:
        """The options that ask for it."""
        options = {
            "--quant": self.quant,
            "--group-size": self.group_size,
            "--recipe": self.custom.origin if self.custom else self.name,
        }
        return " ".join(f"{name} {value}" for name, value in options.items() if value is not None)

    @property
    def least(self) -> Recipe:
        """A recipe that quantizes and calibrates no more than that of any model does."""
        return self.custom or CONSERVATIVE[self.quant]

    def for_model(self, model: Model) -> Quant:
        """The format of `model`. Raises `RefusedError` where no recipe was published for it, and
        `BadInputError` for an entry of a file that decides about none of its matrices."""
        known = QUANTS[self.quant]
        recipe = self._recipe(model)
        if self.group_size is not None:
            recipe = recipe.with_group_size(self.group_size)
        if recipe == known.recipe:
            return known
        return replace(known, name=f"{known.name.split(',')[0]}: {recipe.summary}", recipe=recipe)

    def _recipe(self, model: Model) -> Recipe:
        if self.custom is not None:
            _require_used(self.custom, model)
            return self.custom
        if self.name == "aggressive":
            return AGGRESSIVE[self.quant]
        published = None if self.name == "conservative" else published_recipe(self.quant, model)
        if published is None and self.name == "published":
            raise RefusedError(
                f"no {self.quant.upper()} recipe was published for {model.name} (rule: recipe). "
                "What works instead: --recipe conservative, which is the default, or --recipe "
                "aggressive"
            )
        return published or CONSERVATIVE[self.quant]


def requested(
    quant: str, recipe: str | None = None, group_size: int | None = None
) -> FormatRequest:
    """The format of `--quant`, `--recipe` and `--group-size`.

    Raises `UsageError` for a value that does not exist or that the format has no use for, and
    `BadInputError` for a recipe file that cannot be used.
    """
    key = quant.lower()
    if key not in QUANTS:
        raise UsageError(f"unknown format {quant!r}; known are {', '.join(QUANTS)}")
    if group_size is not None:
        _require_group_size(key, group_size)
    if recipe is None:
        return FormatRequest(key, None, group_size)
    if recipe in NAMES:
        if key not in AGGRESSIVE:
            raise UsageError(f"--recipe belongs to a quantized format, not to {key}")
        return FormatRequest(key, recipe, group_size)
    path = Path(recipe)
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise UsageError(
            f"--recipe {recipe!r}: known are {', '.join(NAMES)}, and files ending in .yaml"
        )
    if group_size is not None:
        raise UsageError(f"--group-size and --recipe {recipe} contradict; the file says the size")
    custom = read_recipe(path)
    if custom.key != key:
        raise UsageError(
            f"--recipe {recipe} makes experts and MLPs {custom.key}, and --quant says {key}"
        )
    return FormatRequest(key, custom=custom)


def default_quants(model: Model) -> tuple[Quant, ...]:
    """Every format as `model` gets it without further options."""
    return tuple(FormatRequest(key).for_model(model) for key in QUANTS)


def published_recipe(quant: str, model: Model) -> Recipe | None:
    """The recipe that was published for `model`, or for a model of the same shape (its base model,
    a fine-tuned one)."""
    for published in PUBLISHED:
        if published.recipe.key == quant and _is_for(published, model):
            return published.recipe
    return None


def published_format(quant: str, model: Model) -> StoredFormat:
    """The format of the weights that NVIDIA publishes for `model` in `quant`, as far as is known
    without looking at them: NVFP4 with NVFP4 inputs, in the published recipe if there is one."""
    recipe = FormatRequest(quant).for_model(model).recipe
    unread = "published in this format; the tensors were not read"
    return StoredFormat(recipe.with_nvfp4_inputs(), "NVIDIA", unread)


def _is_for(published: Published, model: Model) -> bool:
    return _shape(model) in map(_known_shape, published.models)


def _shape(model: Model) -> tuple[str, str, int]:
    return model.pattern, model.mtp_pattern, model.hidden_size


@cache  # every plan asks for each alternative's recipe
def _known_shape(name: str) -> tuple[str, str, int]:
    known = known_model(name)
    assert known is not None, f"{name} is in the catalogue"
    return _shape(known)


def _require_used(recipe: Recipe, model: Model) -> None:
    deciding = {recipe.choice_of(group) for group in model.tensors()}
    for number, choice in enumerate(recipe.choices, 1):
        if choice not in deciding:
            raise BadInputError(
                f"{recipe.origin}: entry {number} of `weights` decides about no weight matrix of "
                f"{model.name}, whose layers are {model.pattern}"
            )


def _require_group_size(quant: str, group_size: int) -> None:
    if group_size not in (*GROUP_SIZES, ROW):
        known = ", ".join(map(str, GROUP_SIZES))
        raise UsageError(
            f"--group-size {group_size}: known are {known}, and {ROW} for whole rows of INT8"
        )
    if quant not in INTEGER_BITS:
        formats = " and ".join(f"--quant {key}" for key in sorted(INTEGER_BITS))
        raise UsageError(f"--group-size belongs to {formats}, not to {quant}")
    if group_size == ROW and quant == "int4":
        raise UsageError(f"--group-size {ROW}, whole rows, belongs to --quant int8, not to int4")
