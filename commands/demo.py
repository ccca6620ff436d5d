"""`demo`: runs the whole pipeline on the embedded checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .terminal import console, printed, progress


def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Bundle directory. Default: dist/tiny-h100-int4."
        ),
    ] = None,
    svg: Annotated[
        Path | None,
        typer.Option("--svg", metavar="FILE", help="Also write the summary to FILE as an SVG."),
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Run the whole pipeline on a small embedded model, without a GPU."""
    from ..api.demo import demo as work

    with progress(as_json) as listener:
        result = work(out, listener)
    if not printed(as_json, result.to_json()):
        from ..views.demo import picture, summary

        summary(console(), result)
        if svg:
            picture(svg, result)
