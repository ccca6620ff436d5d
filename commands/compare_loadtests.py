"""`loadtest compare`: what changed between two load tests, and whether it is more than noise."""

from __future__ import annotations

import typer

from ..core.errors import CheckFailedError
from . import loadtest_options as load
from . import options as opt
from .terminal import console, printed


def compare_loadtests(
    before: load.ReportArgument, after: load.ReportArgument, as_json: opt.JsonOption = False
) -> None:
    """Compare two load tests; exit code 5 if something became worse by more than noise."""
    from ..api.compare_loadtests import compare_loadtests as work

    result = work(before, after)
    if not printed(as_json, result.to_json()):
        from ..views.loadtest import comparison

        comparison(console(), result)
    if not result.ok:
        raise typer.Exit(CheckFailedError.exit_code)
