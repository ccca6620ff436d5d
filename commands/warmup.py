"""`warmup`: a bundle made ready on the node that will serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import CheckFailedError
from . import options as opt
from .terminal import console, printed, progress


def warmup(
    bundle: opt.BundleArgument,
    executor: opt.ExecutorOption = "auto",
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Where this node keeps what it compiles.")
    ] = None,
    verify: opt.VerifyOption = "quick",
    trust_code: opt.TrustOption = False,
    require_golden: Annotated[
        bool,
        typer.Option("--require-golden", help="Fail if the bundle has no golden outputs."),
    ] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """On the node that will serve: compile, tune, check answers."""
    from ..api.warmup import warmup as work

    with progress(as_json) as listener:
        result = work(
            bundle,
            executor,
            cache,
            listener,
            verify=verify,
            trust_code=trust_code,
            require_golden=require_golden,
        )
    if not printed(as_json, result.to_json()):
        from ..views.results import warmed

        warmed(console(), result)
    if not result.ok:
        raise typer.Exit(CheckFailedError.exit_code)
