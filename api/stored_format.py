"""The format in which a checkpoint is stored already, against the one that is asked for."""

from __future__ import annotations

from dataclasses import replace

from ..core.errors import RefusedError, UsageError
from ..model.architecture import Model
from ..model.checkpoint import Checkpoint
from ..model.contents import original_named
from ..model.format_request import FormatRequest, requested
from ..model.formats import Quant
from ..model.spec import Plan
from ..quantize.layouts import DEFAULT


def stored_quant(checkpoint: Checkpoint | None) -> Quant | None:
    """The format of a quantized checkpoint that is open; None for one that can be quantized."""
    if checkpoint is None or checkpoint.quantization is None:
        return None
    return checkpoint.quantization.quant


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


def format_for(
    model: Model, checkpoint: Checkpoint | None, wanted: FormatRequest | None
) -> Quant | None:
    """The format that is `wanted` of `model`; that of a quantized checkpoint is its own. None where
    neither says one.

    Raises `RefusedError` for another format than a quantized checkpoint has.
    """
    stored = stored_quant(checkpoint)
    if stored is None or checkpoint is None or checkpoint.quantization is None:
        return wanted.for_model(model) if wanted else None
    if wanted is not None and _differs(wanted, stored):
        raise RefusedError(
            f"{wanted} cannot be had from {checkpoint.path} (rule: quantized-already): it is "
            f"{checkpoint.quantization.summary}. What works instead: leave {wanted} out, or "
            f"{original_named(checkpoint.path, checkpoint.config)}"
        )
    return stored


def _differs(wanted: FormatRequest, stored: Quant) -> bool:
    sizes = {kind.group_size for kind in stored.recipe.formats}
    return (
        wanted.quant != stored.key
        or wanted.name is not None
        or wanted.custom is not None
        or (wanted.group_size is not None and sizes != {wanted.group_size})
    )


def as_stored(plan: Plan, checkpoint: Checkpoint | None) -> Plan:
    """`plan` with what is known of a quantized checkpoint: what it is, its own size, and what
    becomes of it."""
    if checkpoint is None or checkpoint.quantization is None:
        return plan
    quantization = checkpoint.quantization
    note = f"the checkpoint is quantized already: {quantization.summary}"
    if other := layout_note(checkpoint):
        return replace(plan, notes=(*plan.notes, note, other))
    return replace(plan, notes=(*plan.notes, note), weights_bytes=checkpoint.bytes)


def require_no_calibration(checkpoint: Checkpoint, **options: object) -> None:
    """Raise `UsageError` for options of quantizing, by their names with underscores, which have no
    effect on a checkpoint that is quantized already."""
    for name, value in options.items():
        if value:
            raise UsageError(
                f"--{name.replace('_', '-')} has no effect here: {checkpoint.path} is quantized "
                "already"
            )


def layout_note(checkpoint: Checkpoint) -> str | None:
    """What becomes of a quantized checkpoint in a bundle, where it is not taken over as it is."""
    quantization = checkpoint.quantization
    if quantization is None or quantization.layout == DEFAULT.key:
        return None
    return (
        f"{quantization.layout} is not the layout that TensorRT-LLM reads: a bundle gets the same "
        f"integers and scales in {DEFAULT.key}'s layout, not quantized again"
    )
