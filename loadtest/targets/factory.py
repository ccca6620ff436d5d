"""From an address to its target."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ...core.errors import BadInputError, UsageError
from ...runtime import contract
from ...runtime.openai.keys import KeysError, read_keys
from .. import endpoint
from ..permission import require_permitted
from .base import Target

AUTO: Final = "auto"


def _grpc(url: str) -> Target:
    from .triton_grpc import TritonGrpc

    return TritonGrpc(endpoint.parse(url))


def _generate_stream(url: str) -> Target:
    from .triton_http import TritonHttp

    return TritonHttp(endpoint.parse_http(url).base)


def _chat(url: str) -> Target:
    from .openai import OpenAi

    return OpenAi(endpoint.parse_http(url).base, chat=True, key=_key())


def _completions(url: str) -> Target:
    from .openai import OpenAi

    return OpenAi(endpoint.parse_http(url).base, chat=False, key=_key())


TARGETS: Final[Mapping[str, Callable[[str], Target]]] = {
    "grpc": _grpc,
    "generate-stream": _generate_stream,
    "chat": _chat,
    "completions": _completions,
}
"""What makes the target of each protocol."""


def _key() -> str | None:
    """The API key of an OpenAI endpoint, where the environment has one or names a file of them.

    Raises `BadInputError` for a file without keys. One that is missing is as good as none: the
    Secret that it comes from need not exist.
    """
    key, file = (os.environ.get(v.name) for v in (contract.OPENAI_KEY, contract.OPENAI_KEYS))
    if key or not file or not Path(file).exists():
        return key
    try:
        return read_keys(Path(file))[0]
    except KeysError as error:
        raise BadInputError(str(error)) from error


async def connect(url: str, protocol: str, *, yours: bool) -> Target:
    """The target behind `url`, in `protocol`: one of `TARGETS`, or `auto`, which takes what the
    address says, or what the server at an HTTP address answers to.

    Raises `UsageError` for what is no address or protocol, `RefusedError` for a server that may not
    be tested, `BadInputError` for a name without an address and for an HTTP server that speaks none
    of the protocols.
    """
    if protocol not in (AUTO, *TARGETS):
        raise UsageError(f"--protocol {protocol!r}: must be one of {', '.join((AUTO, *TARGETS))}")
    host, port = endpoint.host_and_port(url)
    require_permitted(host, port, yours=yours)
    if protocol == AUTO:
        protocol = await _protocol(url) if endpoint.is_http(url) else "grpc"
    return TARGETS[protocol](url)


async def _protocol(url: str) -> str:
    address = endpoint.parse_http(url)
    if address.protocol:
        return address.protocol
    from .http import HttpServer

    server = HttpServer(address.base, _key())
    try:
        if await server.ask("GET", "/v1/models") is not None:
            return "chat"
        if await server.status("/v2/health/live") == 200:
            return "generate-stream"
    finally:
        await server.close()
    raise BadInputError(
        f"{url}: is neither an OpenAI endpoint (no list of models at /v1/models; its API key is "
        f"read from {contract.OPENAI_KEY.name}) nor a Triton server"
    )
