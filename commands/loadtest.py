"""`loadtest`: measures the latency and throughput of a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from ..core.errors import CheckFailedError, UsageError
from . import kubectl_options as kube
from . import loadtest_options as load
from . import options as opt
from .failures import noting
from .terminal import console, printed, progress

if TYPE_CHECKING:
    from ..api.loadtest import LoadTestResult
    from ..api.loadtest_in_cluster import InCluster

_NO_REPORT: Final = "No report was written."


def loadtest(
    target: opt.TargetArgument,
    concurrency: load.LevelsOption = "1,4",
    rate: load.RateOption = None,
    arrivals: load.ArrivalsOption = "poisson",
    requests: load.RequestsOption = None,
    max_tokens: load.MaxTokensOption = 32,
    prompts: load.PromptsOption = None,
    prompt_tokens: load.PromptTokensOption = None,
    shared_prefix: load.SharedPrefixOption = 0.0,
    trace: load.ReplayOption = None,
    tokenizer: load.TokenizerOption = None,
    seed: load.SeedOption = None,
    ignore_eos: load.IgnoreEosOption = False,
    protocol: load.ProtocolOption = "auto",
    model: load.ServedModelOption = None,
    slo: load.SloOption = None,
    find_max: load.FindMaxOption = False,
    timeout: load.TimeoutOption = 120.0,
    max_errors: load.MaxErrorsOption = 1.0,
    allow_late: load.AllowLateOption = False,
    processes: load.ProcessesOption = None,
    until: load.UntilOption = None,
    definitions: load.DefinitionsOption = None,
    metrics_url: load.MetricsUrlOption = None,
    out: load.SamplesOption = None,
    save: load.SaveOption = None,
    yours: load.OwnServerOption = False,
    verify: opt.VerifyOption = "quick",
    trust_code: opt.TrustOption = False,
    in_cluster: load.InClusterOption = False,
    pods: load.PodsOption = None,
    context: kube.KubeContextOption = None,
    namespace: kube.NamespaceOption = None,
    overlay: kube.DeployedOverlayOption = None,
    image: load.LoadImageOption = None,
    ready_timeout: load.ReadyOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Measure the latency and throughput of a server or a bundle."""
    from ..api.loadtest import InterruptedLoadTestError, levels, rates
    from ..api.loadtest import loadtest as work
    from ..views import loadtest_files as files

    saved = save or []
    files.require_writable(saved)
    place = {
        "pods": pods,
        "context": context,
        "namespace": namespace,
        "overlay": overlay,
        "image": image,
        "ready_timeout": ready_timeout,
    }
    try:
        with (
            noting(_NO_REPORT),
            _senders(in_cluster, as_json, place) as senders,
            progress(as_json) as listener,
        ):
            result = work(
                target,
                concurrency=levels(concurrency),
                rate=rates(rate) if rate is not None else None,
                arrivals=arrivals,
                requests=requests,
                max_tokens=max_tokens,
                prompts=prompts,
                prompt_tokens=prompt_tokens,
                shared_prefix=shared_prefix,
                trace=trace,
                tokenizer=tokenizer,
                seed=seed,
                ignore_eos=ignore_eos,
                protocol=protocol,
                model=model,
                slos=slo or (),
                find_max=find_max,
                timeout=timeout,
                max_errors=max_errors,
                allow_late=allow_late,
                processes=processes,
                until=until,
                definitions=definitions,
                metrics_urls=metrics_url or (),
                out=out,
                yours=yours,
                verify=verify,
                trust_code=trust_code,
                in_cluster=senders,
                progress=listener,
            )
    except InterruptedLoadTestError as interrupt:
        cause = interrupt.__cause__ or interrupt
        if as_json or interrupt.result.report.runs:
            _show(as_json, interrupt.result, saved)
            cause.add_note(
                "The report so far was printed and saved."
                if saved
                else "The report so far was printed."
            )
        else:
            cause.add_note(_NO_REPORT)
        raise cause from None
    _show(as_json, result, saved)
    if not result.ok:
        raise typer.Exit(CheckFailedError.exit_code)


def _show(as_json: bool, result: LoadTestResult, saved: Sequence[Path]) -> None:
    """Print the report, then save it: what cannot be saved was seen at least."""
    from ..views import loadtest_files as files

    document = result.to_json()
    if not printed(as_json, document):
        from ..views.loadtest import load_report

        load_report(console(), result)
    files.save(saved, document)


@contextmanager
def _senders(in_cluster: bool, as_json: bool, place: dict[str, Any]) -> Iterator[InCluster | None]:
    """From where in a cluster to send, with a view of what is waited for there."""
    given = {name: value for name, value in place.items() if value is not None}
    if not in_cluster:
        for name in given:
            raise UsageError(f"--{name.replace('_', '-')} is for --in-cluster")
        yield None
        return
    from ..api.loadtest_in_cluster import InCluster

    if as_json:
        yield InCluster(**given)
        return
    from ..views.deploy import Shown

    with Shown(console(stderr=True)) as shown:
        yield InCluster(**given, looked=shown.looked)
