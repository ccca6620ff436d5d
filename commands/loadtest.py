"""`loadtest`: the latency and throughput of a server."""

from __future__ import annotations

import typer

from ..core.errors import CheckFailedError
from . import options as opt
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
    """Measure a server, or a bundle served here: latency, throughput."""
    from ..api.loadtest import built_in_prompts, levels
    from ..api.loadtest import loadtest as work
    from ..loadtest import LoadTest
    from ..loadtest.slo import parse

    config = LoadTest(
        prompts=built_in_prompts(),
        model=model,
        concurrencies=levels(concurrency),
        rate=rate,
        requests=requests,
        max_tokens=max_tokens,
        slos=tuple(parse(text) for text in slo or ()),
    )
    with progress(as_json) as told:
        report, kept = work(target, config, told, verify=verify, trust_code=trust_code)
    if not printed(as_json, report.to_json()):
        from ..views.results import load_report

        load_report(console(), report.to_json(), str(kept) if kept else None)
    if not report.ok:
        raise typer.Exit(CheckFailedError.exit_code)
