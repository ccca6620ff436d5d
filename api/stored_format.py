"""The format in which a checkpoint is stored already, against the one that is asked for."""

from __future__ import annotations

from dataclasses import replace

from ..build.engines.base import PlannedEngine
from ..core.errors import RefusedError, UsageError
from ..model.catalog.family import original_repository
from ..model.checkpoint import Checkpoint
from ..model.contents import original_named
from ..model.format_request import FormatRequest, requested
from ..model.formats import Quant
from ..model.quantized import StoredFormat
from ..model.spec import Plan
from ..sources.checkpoint_source import Source


def require_format_alone(
    quant: str | None, recipe: str | None, group_size: int | None
) -> FormatRequest | None:
    """The format of `--quant`, `--recipe` and `--group-size`, None without the first. Raises as
    `requested`, and `UsageError` for the others without the first."""
    if quant is not None:
        return requested(quant, recipe, group_size)
    if group_size is not None or recipe is not None:
        raise UsageError("--group-size and --recipe belong to one --quant; give it, too")
    return None


def format_for(source: Source, wanted: FormatRequest | None) -> Quant | None:
    """The format that is `wanted` of `source`; that of quantized weights is their own. None where
    neither says one.

    Raises `RefusedError` for another format than quantized weights have.
    """
    stored = source.stored
    if stored is None:
        return wanted.for_model(source.model) if wanted else None
    if wanted is not None and _differs(wanted, stored):
        raise RefusedError(
            f"{wanted} cannot be had from {source.asked} (rule: quantized-already): it is "
            f"{stored.summary}. What works instead: leave {wanted} out, or {_original(source)}"
        )
    return stored.quant


def _differs(wanted: FormatRequest, stored: StoredFormat) -> bool:
    sizes = {kind.group_size for kind in stored.recipe.formats}
    return (
        wanted.quant != stored.recipe.key
        or wanted.name is not None
        or wanted.custom is not None
        or (wanted.group_size is not None and sizes != {wanted.group_size})
    )


def _original(source: Source) -> str:
    """Where the unquantized model is, as the end of a message."""
    if source.checkpoint is not None:
        return original_named(source.checkpoint.path, source.checkpoint.config)
    if source.configuration is not None:
        return original_named(source.configuration.parent, source.model.config)
    return f"use the unquantized original, {original_repository(source.asked)}"


def as_stored(plan: Plan, source: Source, engine: PlannedEngine) -> Plan:
    """`plan` for `engine` with what is known of quantized weights: what they are, their own size,
    and what becomes of them."""
    if source.stored is None:
        return plan
    notes = [*plan.notes, f"the checkpoint is quantized already: {source.stored.summary}"]
    checkpoint = source.checkpoint
    if checkpoint is None:
        return replace(plan, notes=tuple(notes))
    if other := layout_note(checkpoint, engine):
        return replace(plan, notes=(*notes, other))
    return replace(plan, notes=tuple(notes), weights_bytes=checkpoint.bytes)


def require_no_calibration(source: Source, **options: object) -> None:
    """Raise `UsageError` for options of quantizing, by their names with underscores, which have no
    effect on weights that are quantized already."""
    for name, value in options.items():
        if value:
            raise UsageError(
                f"--{name.replace('_', '-')} has no effect here: {source.asked} is quantized "
                "already"
            )


def layout_note(checkpoint: Checkpoint, engine: PlannedEngine) -> str | None:
    """What becomes of a quantized checkpoint in a bundle for `engine`, where it is not taken over
    as it is."""
    quantization = checkpoint.quantization
    if quantization is None:
        return None
    layout = engine.layout(quantization.recipe)
    if quantization.layout == layout:
        return None
    return (
        f"{quantization.layout} is not the layout that {engine.title} reads: a bundle gets the "
        f"same integers and scales in {layout}'s layout, not quantized again"
    )
