"""`build`: a bundle: weights, engine, repository, manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..model.catalog import DEFAULT_CHECKPOINT
from ..model.spec import Workload
from . import options as opt
from .terminal import console, printed, progress, show_fetch


def build(
    gpu: opt.GpuOption,
    quant: opt.QuantOption,
    checkpoint: opt.CheckpointOption = DEFAULT_CHECKPOINT,
    out: Annotated[
        Path | None, typer.Option("--out", help="The bundle; default dist/<model>-<gpu>-<quant>.")
    ] = None,
    engine: opt.EngineOption = "tensorrt-llm",
    gpus: opt.GpusOption = 1,
    context: opt.ContextOption = None,
    concurrency: opt.ConcurrencyOption = None,
    calibration: opt.CalibrationOption = None,
    smooth: opt.SmoothOption = None,
    heldout: opt.HeldoutOption = None,
    device: opt.DeviceOption = "auto",
    low_disk: opt.LowDiskOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Make a bundle: weights, engine, repository, manifests.

    The checkpoint is quantized, the engine directory holds what TensorRT-LLM needs on this GPU, the
    model repository is Triton's, the manifests are for Kubernetes. An interrupted build goes on.
    """
    from ..api import build as api

    workload = Workload(context=context, concurrency=concurrency, gpus=gpus)
    job = api.prepare(
        checkpoint,
        gpu,
        quant,
        workload,
        out,
        calibration=calibration,
        smooth=smooth,
        device=device,
        heldout=heldout,
        low_disk=low_disk,
        engine_name=engine,
    )
    fetch = api.to_fetch(job)
    if dry_run:
        steps = api.dry_run(job)
        if not printed(as_json, {"bundle": str(job.out), "stages": steps, "fetch": fetch}):
            from ..views.results import dry_run as view

            show_fetch(fetch)
            view(console(), str(job.out), steps)
        return
    show_fetch(fetch)
    with progress(as_json) as told:
        record = api.build(job, told)
    if not printed(as_json, record):
        from ..views.results import built

        built(console(), record)
