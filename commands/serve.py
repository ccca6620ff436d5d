"""`serve`: a bundle served here with a real tritonserver."""

from __future__ import annotations

from typing import Annotated

import typer

from ..runtime import contract
from . import options as opt
from .terminal import console, printed, progress


def serve(
    bundle: opt.BundleArgument,
    executor: opt.ExecutorOption = "auto",
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = contract.HTTP.number,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = contract.GRPC.number,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = contract.METRICS_PORT.number,
    verify: opt.VerifyOption = "quick",
    trust_code: opt.TrustOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Serve a bundle here with a real tritonserver."""
    from ..api.serve import Ports, Serving
    from ..api.serve import serve as work

    def ready(server: Serving) -> None:
        if not printed(as_json, server.to_json()):
            from ..views.results import serving

            serving(console(), server)

    ports = Ports(http_port, grpc_port, metrics_port)
    with progress(as_json) as told:
        work(bundle, executor, ports, ready, told, verify=verify, trust_code=trust_code)
