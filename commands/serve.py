"""`serve`: a bundle served here with a real tritonserver."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as opt
from .terminal import console, printed, progress


def serve(
    bundle: opt.BundleArgument,
    executor: opt.ExecutorOption = "auto",
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
    as_json: opt.JsonOption = False,
) -> None:
    """Serve a bundle here with a real tritonserver."""
    from ..api.serve import serve as work

    with (
        progress(as_json) as shown,
        work(
            bundle,
            executor=executor,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            progress=shown,
        ) as served,
    ):
        if not printed(as_json, served.result.to_json()):
            from ..views.results import serving

            serving(console(), served.result)
        served.wait()
