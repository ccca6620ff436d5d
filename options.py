"""Options and arguments of the command line that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CheckpointOption = Annotated[
    str,
    typer.Option("--checkpoint", help="A directory, a hub's owner/name[@revision], or `tiny`."),
]
GpuOption = Annotated[str, typer.Option("--gpu", help="For example h100, a100, a100-40gb, l40s.")]
QuantOption = Annotated[str, typer.Option("--quant", help="bf16, fp8, int4 or nvfp4.")]
GpusOption = Annotated[int, typer.Option("--gpus", min=1, help="GPUs of one server.")]
ContextOption = Annotated[
    int | None, typer.Option("--context", min=1, help="Tokens a sequence may have.")
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--concurrency", min=1, help="Sequences served at once.")
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option("--calibration", help="JSON lines with text, prompt or messages."),
]
SmoothOption = Annotated[
    bool | None,
    typer.Option(
        "--smooth/--no-smooth",
        help="INT4: fold activation-aware scales in, found by calibration (on by default).",
        show_default=False,
    ),
]
HeldoutOption = Annotated[
    Path | None,
    typer.Option("--heldout", help="Text to judge quality by, as --calibration. Runs the model."),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Where calibration runs: auto, cpu or cuda.")
]
BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle directory.")]
LowDiskOption = Annotated[
    bool,
    typer.Option(
        "--low-disk",
        help="Fetch and encode shard by shard, and let go of each. INT4, without smoothing.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ExecutorOption = Annotated[
    str, typer.Option("--executor", help="auto, trtllm, or reference (transformers on the CPU).")
]
