"""`verify`: checks a bundle."""

from __future__ import annotations

import typer

from ..core.errors import CheckFailedError
from . import options as opt
from .terminal import console, printed, progress


def verify(bundle: opt.BundleArgument, as_json: opt.JsonOption = False) -> None:
    """Check a bundle: file digests, repository, engine, manifests."""
    from ..api.verify import verify as work

    with progress(as_json) as listener:
        result = work(bundle, progress=listener)
    if not printed(as_json, result.to_json()):
        from ..views.results import checks as view

        view(console(), result)
    if not result.ok:
        raise typer.Exit(CheckFailedError.exit_code)
