"""`demo`: the whole pipeline with the embedded checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .terminal import console, printed, progress


def demo(
    out: Annotated[Path | None, typer.Option("--out", help="Where the bundle goes.")] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Save the summary as a picture as well.")
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Do all of it with the embedded checkpoint, without a GPU."""
    from ..api.demo import demo as work

    with progress(as_json) as shown:
        result = work(out, shown)
    if not printed(as_json, result.to_json()):
        from ..views.demo import picture, summary

        summary(console(), result)
        if svg:
            picture(svg, result)
