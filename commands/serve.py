"""`serve`: a bundle served here with a real tritonserver."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from ..runtime import contract
from . import options as opt
from .failures import Terminated
from .terminal import console, printed, progress


def serve(
    bundle: opt.BundleArgument,
    executor: opt.ServingExecutorOption = "auto",
    script: opt.ScriptOption = None,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = contract.HTTP.number,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = contract.GRPC.number,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = contract.METRICS_PORT.number,
    openai_port: opt.OpenAIPortOption = None,
    api_keys: opt.ApiKeysOption = None,
    openai_traces: opt.OpenAITracesOption = False,
    health_port: Annotated[int, typer.Option(min=1, max=65535)] = contract.HEALTH.number,
    grace: opt.GraceOption = contract.GRACE_SECONDS,
    trace_config: opt.TraceOption = None,
    verify: opt.VerifyOption = "quick",
    trust_code: opt.TrustOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Serve a bundle here with a real tritonserver."""
    from ..api.serve import serve as work

    with (
        progress(as_json) as shown,
        work(
            bundle,
            executor=executor,
            script=script,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            openai_port=openai_port,
            api_keys=api_keys,
            openai_traces=openai_traces,
            health_port=health_port,
            grace=grace,
            trace_config=trace_config or (),
            verify=verify,
            trust_code=trust_code,
            progress=shown,
        ) as served,
        suppress(Terminated),  # a server that is told to end has done its work: status 0
    ):
        if not printed(as_json, served.result.to_json()):
            from ..views.results import serving

            serving(console(), served.result)
        served.wait()
