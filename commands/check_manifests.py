"""`check-manifests`: checks Kubernetes manifests."""

from __future__ import annotations

import typer

from ..core.errors import CheckFailedError
from . import options as opt
from .terminal import console, printed


def check_manifests(directory: opt.ManifestsArgument, as_json: opt.JsonOption = False) -> None:
    """Check Kubernetes manifests for mistakes that break model servers."""
    from ..api.check_manifests import check_manifests as work

    result = work(directory)
    if not printed(as_json, result.to_json()):
        from ..views.manifests import findings as view

        view(console(), result)
    if not result.ok:
        raise typer.Exit(CheckFailedError.exit_code)
