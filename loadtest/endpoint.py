"""Addresses of servers, as people write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

from ..core.errors import UsageError

_EXAMPLE: Final = "write grpc://HOST:PORT, for example grpc://localhost:8001 (Triton's gRPC port)"
_HTTP_EXAMPLE: Final = (
    "write http://HOST:PORT, for example http://localhost:9000 (an OpenAI endpoint) or "
    "http://localhost:8000 (Triton's HTTP port)"
)
_PORTS: Final = {"http": 80, "https": 443}
_PROTOCOLS: Final = {
    "": "",
    "/v1": "chat",
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
}
"""The protocol that the path of an HTTP address names; none leaves it to the server."""


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """An HTTP address: `base` is scheme, host and port; `protocol` is what its path names, if
    anything."""

    base: str
    protocol: str


def is_http(url: str) -> bool:
    """Whether `url` is written as an HTTP address."""
    return url.strip().lower().startswith(("http://", "https://"))


def host_and_port(url: str) -> tuple[str, int]:
    """The host, an IPv6 one without brackets, and the port. Raises `UsageError`."""
    if is_http(url):
        parts = urlsplit(parse_http(url).base)
        return parts.hostname or "", parts.port or _PORTS[parts.scheme]
    host, _, port = parse(url).rpartition(":")
    return host.strip("[]"), int(port)


def parse_http(url: str) -> HttpAddress:
    """Read `http://host[:port][/v1...]`, or with `https`. Raises `UsageError`."""
    scheme, _, rest = url.strip().partition("://")
    parts = _split(url, rest, _HTTP_EXAMPLE)
    path = parts.path.rstrip("/")
    if path not in _PROTOCOLS:
        raise UsageError(f"{url!r} has the path {path}: {_HTTP_EXAMPLE}")
    return HttpAddress(f"{scheme.lower()}://{parts.netloc}", _PROTOCOLS[path])


def parse(url: str) -> str:
    """`host:port` (an IPv6 host in brackets) out of `grpc://host:port` or `host:port`.

    Raises `UsageError` that says what to write instead.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        scheme, rest = "grpc", scheme
    if scheme.lower() in _PORTS:
        raise UsageError(f"{url!r} is an HTTP address, not one of gRPC: {_EXAMPLE}")
    if scheme.lower() != "grpc":
        raise UsageError(f"{url!r} has the unknown scheme {scheme!r}: {_EXAMPLE}")
    parts = _split(url, rest, _EXAMPLE)
    if parts.path.strip("/"):
        raise UsageError(f"{url!r} is not an address of the form HOST:PORT: {_EXAMPLE}")
    if not parts.port:
        raise UsageError(f"{url!r} has no port: {_EXAMPLE}")
    host = parts.hostname
    return f"[{host}]:{parts.port}" if ":" in str(host) else f"{host}:{parts.port}"


def _split(url: str, rest: str, example: str) -> SplitResult:
    """The parts of an address without its scheme, checked for a host and nothing but a path."""
    try:
        parts = urlsplit(f"//{rest}")
        parts.port  # noqa: B018 (raises for a number that is no port)
    except ValueError as error:
        raise UsageError(f"{url!r} is not an address ({error}): {example}") from error
    plain = parts.hostname and not parts.query and not parts.fragment
    if not plain or "@" in parts.netloc or any(letter.isspace() for letter in rest):
        raise UsageError(f"{url!r} is not an address of the form HOST:PORT: {example}")
    return parts
