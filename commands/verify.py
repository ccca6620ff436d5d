"""`verify`: checks a bundle."""

from __future__ import annotations

import typer

from ..core.errors import CheckFailedError
from . import options as opt
from .terminal import console, printed, progress


def verify(bundle: opt.BundleArgument, as_json: opt.JsonOption = False) -> None:
    """Check a bundle: file digests, repository, engine, manifests."""
    from dataclasses import asdict

    from ..api.verify import verify as work

    with progress(as_json) as listener:
        checks = work(bundle, listener)
    ok = all(check.ok for check in checks)
    if not printed(as_json, {"ok": ok, "checks": [asdict(check) for check in checks]}):
        from ..views.results import checks as view

        view(console(), str(bundle), checks)
    if not ok:
        raise typer.Exit(CheckFailedError.exit_code)
