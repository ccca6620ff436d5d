"""`quantize`: writes a checkpoint in another format, or measures what formats cost."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UsageError
from ..model.catalog import DEFAULT_CHECKPOINT
from . import options as opt
from .terminal import console, printed, progress, show_fetch


def quantize(
    checkpoint: opt.CheckpointOption = DEFAULT_CHECKPOINT,
    quant: opt.FormatOption = None,
    compare: opt.CompareOption = None,
    layout: opt.LayoutOption = "modelopt",
    group_size: opt.GroupSizeOption = None,
    recipe: opt.RecipeOption = None,
    smooth: opt.SmoothOption = None,
    calibration: opt.CalibrationOption = None,
    heldout: opt.HeldoutOption = None,
    device: opt.DeviceOption = "auto",
    low_disk: opt.LowDiskOption = False,
    out: opt.NewDirectoryOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Write a checkpoint in another format, or compare formats.

    If a run is interrupted, the same command resumes it.
    """
    if compare is not None:
        unused = {
            "--quant": quant,
            "--group-size": group_size,
            "--recipe": recipe,
            "--low-disk": low_disk or None,
        }
        for option, value in unused.items():
            if value is not None:
                raise UsageError(f"--compare and {option} cannot be combined; remove {option}")
        _compare(checkpoint, compare, out, calibration, heldout, device, as_json)
        return
    if quant is None or out is None:
        missing = "--quant or --compare" if quant is None else "--out"
        raise UsageError(f"missing option {missing} (see nemo-deploy quantize --help)")
    from ..api.quantize import quantize as work

    with progress(as_json) as listener:
        result = work(
            checkpoint,
            quant=quant,
            out=out,
            layout=layout,
            group_size=group_size,
            recipe=recipe,
            calibration=calibration,
            smooth=smooth,
            heldout=heldout,
            device=device,
            low_disk=low_disk,
            on_fetch=show_fetch,
            progress=listener,
        )
    if not printed(as_json, result.to_json()):
        from ..views.results import quantization

        quantization(console(), result)


def _compare(
    checkpoint: str,
    formats: str,
    out: Path | None,
    calibration: Path | None,
    heldout: Path | None,
    device: str,
    as_json: bool,
) -> None:
    from ..api.quality import compare as work

    with progress(as_json) as listener:
        report = work(
            checkpoint,
            formats,
            out=out,
            calibration=calibration,
            heldout=heldout,
            device=device,
            progress=listener,
        )
    if not printed(as_json, report.brief()):
        from ..views.quality import comparison

        comparison(console(), report, out)
