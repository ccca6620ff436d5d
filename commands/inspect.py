"""`inspect`: what a model is and what it weighs."""

from __future__ import annotations

from ..model.catalog import DEFAULT_CHECKPOINT
from . import options as opt
from .terminal import console, printed


def inspect(
    checkpoint: opt.CheckpointOption = DEFAULT_CHECKPOINT, as_json: opt.JsonOption = False
) -> None:
    """Say what a model is and what it weighs."""
    from ..api.inspect import inspect as work

    result = work(checkpoint)
    if not printed(as_json, result.to_json()):
        from ..views.model import inspection

        inspection(console(), result)
