"""How vLLM splits quantized matrices over GPUs, and where their groups do not divide."""

from __future__ import annotations

from typing import Final

from ....model.architecture import Model, Role
from ....model.recipe import Recipe

ROW_PARALLEL: Final = ("down_proj.weight", "out_proj.weight", "o_proj.weight")
"""Matrices whose columns are divided by tensor parallelism (`RowParallelLinear`); those of routed
experts stay whole, since experts are divided as such."""


def problem(model: Model, recipe: Recipe, gpus: int) -> str | None:
    """Why the groups of a quantized matrix cannot be split over `gpus` GPUs, or None: the columns
    of each GPU must be whole groups (`CompressedTensorsWNA16.create_weights`)."""
    for group in model.tensors():
        kind = recipe.format_of(group)
        if kind is None or not kind.group_size or group.role is Role.EXPERT:
            continue
        columns = group.shape[1]
        if group.template.endswith(ROW_PARALLEL) and columns % (gpus * kind.group_size):
            return (
                f"vLLM gives each of {gpus} GPUs an equal part of the {columns} columns of "
                f"{group.template}, and those {columns / gpus:g} are not whole groups of "
                f"{kind.group_size} with one scale."
            )
    return None
