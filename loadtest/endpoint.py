"""Addresses of Triton gRPC endpoints, as people write them."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from ..core.errors import UsageError

_EXAMPLE: Final = "write grpc://HOST:PORT, for example grpc://localhost:8001 (Triton's gRPC port)"


def parse(url: str) -> str:
    """`host:port` (an IPv6 host in brackets) out of `grpc://host:port` or `host:port`.

    Raises `UsageError` that says what to write instead.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        scheme, rest = "grpc", scheme
    if scheme.lower() in ("http", "https"):
        raise UsageError(
            f"{url!r} is an HTTP address, but tokens are streamed over gRPC: {_EXAMPLE}"
        )
    if scheme.lower() != "grpc":
        raise UsageError(f"{url!r} has the unknown scheme {scheme!r}: {_EXAMPLE}")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is not an address ({error}): {_EXAMPLE}") from error
    plain = host and not parts.path.strip("/") and not parts.query and not parts.fragment
    if not plain or "@" in parts.netloc or any(letter.isspace() for letter in rest):
        raise UsageError(f"{url!r} is not an address of the form HOST:PORT: {_EXAMPLE}")
    if not port:
        raise UsageError(f"{url!r} has no port: {_EXAMPLE}")
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
