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
    as_json: opt.JsonOption = False,
) -> None:
    """Serve a bundle here with a real tritonserver."""
    from ..api.serve import Ports
    from ..api.serve import serve as work

    def ready(record: dict[str, str]) -> None:
        if not printed(as_json, record):
            from ..views.results import serving

            serving(console(), record)

    with progress(as_json) as told:
        work(bundle, executor, Ports(http_port, grpc_port, metrics_port), ready, told)
