"""How a quantized checkpoint is laid out in files: one entry a layout.

A layout is a record in a file of its own, listed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ...core.errors import RefusedError, UsageError
from ...model.recipe import Recipe
from . import compressed_tensors, modelopt
from .base import Layout, Reader, weights_bytes

__all__ = ["DEFAULT", "LAYOUTS", "Layout", "Reader", "layout_for", "weights_bytes"]

LAYOUTS: Final[Mapping[str, Layout]] = {
    layout.key: layout for layout in (modelopt.LAYOUT, compressed_tensors.LAYOUT)
}

DEFAULT: Final = modelopt.LAYOUT


def layout_for(name: str, recipe: Recipe) -> Layout:
    """The layout of `--layout name`, which must be able to hold what `recipe` writes.

    Raises `UsageError` for an unknown name, `RefusedError` where the layout lacks a kind or has
    no place for the scales of an FP8 KV cache.
    """
    if name not in LAYOUTS:
        raise UsageError(f"--layout {name!r} is unknown; known layouts are {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    if not _holds(layout, recipe):
        fitting = [other.key for other in LAYOUTS.values() if _holds(other, recipe)]
        unknown = {kind.key for kind in recipe.formats} - layout.formats
        what = ", ".join(sorted(unknown)) or "scales of an FP8 KV cache"
        raise RefusedError(
            f"--layout {layout.key} supports {', '.join(sorted(layout.formats))}, not {what} "
            f"(rule: layout). What works instead: --layout {', '.join(fitting)}."
        )
    return layout


def _holds(layout: Layout, recipe: Recipe) -> bool:
    wanted = {kind.key for kind in recipe.formats} or {recipe.key}
    return wanted <= layout.formats and (layout.kv_scales or not recipe.scales_kv)
