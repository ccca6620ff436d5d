"""The endpoint as a running HTTP server."""

from __future__ import annotations

from typing import Final

import uvicorn

from .app import create_app
from .keys import ApiKeys
from .renewal import Renewed
from .spans import Spans
from .upstream import Upstream

KEEP_ALIVE_S: Final = 75
"""How long an idle connection stays open: longer than clients and gateways keep theirs."""


async def serve(
    grpc: str,
    model: str,
    keys: ApiKeys | None,
    spans: Spans,
    host: str,
    port: int,
    grace: int,
    connection_age: float | None = None,
) -> bool:
    """Serve `model` of the Triton server at `grpc` until SIGTERM or SIGINT; False if the port
    cannot be used. Answers that are being sent then have `grace` seconds to end. Connections are
    renewed at `connection_age` seconds (see `Renewed`)."""
    upstream = Upstream(grpc, model)
    app = create_app(upstream, keys, spans)
    server = uvicorn.Server(
        uvicorn.Config(
            app if connection_age is None else Renewed(app, connection_age),
            host=host,
            port=port,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=grace,
        )
    )
    try:
        await server.serve()
    except SystemExit:  # uvicorn logged why it cannot listen
        return False
    finally:
        await upstream.close()
        spans.close()
    return True
