"""`loadtest`: measures the latency and throughput of a server."""

from __future__ import annotations

import typer

from ..core.errors import CheckFailedError
from . import options as opt
from .failures import noting
from .terminal import console, printed, progress


def loadtest(
    target: opt.TargetArgument,
    concurrency: opt.LevelsOption = "1,4",
    rate: opt.RateOption = None,
    requests: opt.RequestsOption = None,
    max_tokens: opt.MaxTokensOption = 32,
    model: opt.ServedModelOption = None,
    slo: opt.SloOption = None,
    verify: opt.VerifyOption = "quick",
    trust_code: opt.TrustOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Measure the latency and throughput of a server or a bundle."""
    from ..api.loadtest import levels
    from ..api.loadtest import loadtest as work

    with noting("No report was written."), progress(as_json) as listener:
        result = work(
            target,
            concurrency=levels(concurrency),
            rate=rate,
            requests=requests,
            max_tokens=max_tokens,
            model=model,
            slos=slo or (),
            verify=verify,
            trust_code=trust_code,
            progress=listener,
        )
    if not printed(as_json, result.to_json()):
        from ..views.results import load_report

        load_report(console(), result)
    if not result.ok:
        raise typer.Exit(CheckFailedError.exit_code)
