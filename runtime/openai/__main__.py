"""Run the endpoint: `python -m nemo_deploy_runtime.openai --model NAME`."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..contract import GRACE_SECONDS, GRPC, OPENAI
from .keys import ApiKeys, KeysError
from .spans import RecordedSpans, Spans

BAD_INPUT: Final = 4
"""The exit status for a file of keys, an address or a port that cannot be used."""

_PACKAGES: Final = ("starlette", "uvicorn", "'tritonclient[grpc]'")
_TRACING_PACKAGES: Final = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; gives the exit status.

    Requests that are being answered then have `--grace` seconds to end.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="openai: %(message)s")
    try:
        keys = None
        if options.api_keys is not None:
            keys = ApiKeys(options.api_keys, optional=options.without_keys)
    except KeysError as error:
        return _refused(str(error))
    if keys is None and not options.without_keys and not _is_loopback(options.host):
        return _refused(
            "without --api-keys, the endpoint listens on this machine only, not on "
            f"{options.host}; pass --without-keys where something else decides who can reach it"
        )
    if keys is None:
        logging.warning("no API key is needed: whoever reaches this endpoint may use it")
    try:
        from .server import serve

        spans = RecordedSpans() if options.traces else Spans()
    except ImportError as error:
        needed = (*_PACKAGES, *_TRACING_PACKAGES) if options.traces else _PACKAGES
        return _refused(
            f"the Python package {error.name} is missing; the endpoint needs: "
            f"pip install {' '.join(needed)}"
        )
    # uvicorn raises the signal again when it has shut down, for handlers such as this one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    address = (options.host, options.port)
    limits = options.grace, options.connection_age
    served = serve(options.grpc, options.model, keys, spans, *address, *limits)
    with asyncio.Runner(loop_factory=_event_loop()) as runner:
        return 0 if runner.run(served) else BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nemo_deploy_runtime.openai")
    parser.add_argument("--model", required=True, help="the name of the served model")
    parser.add_argument("--grpc", default=f"127.0.0.1:{GRPC.number}", help="tritonserver's gRPC")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=OPENAI.number)
    parser.add_argument(
        "--api-keys", type=Path, help="a file with one API key a line, read again when it changes"
    )
    parser.add_argument(
        "--without-keys",
        action="store_true",
        help="let everybody who can reach it use it, as long as there is no file of keys",
    )
    parser.add_argument(
        "--traces",
        action="store_true",
        help="send OpenTelemetry spans of requests, as its environment variables say",
    )
    parser.add_argument(
        "--grace", type=int, default=GRACE_SECONDS, help="seconds for answers to end in"
    )
    parser.add_argument(
        "--connection-age",
        type=float,
        help="seconds after which a client is to connect again; it also is after each stream",
    )
    return parser


def _event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed, as uvicorn itself would choose."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refused(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
