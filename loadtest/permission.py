"""Which servers may be put under load: one's own."""

from __future__ import annotations

import ipaddress
import socket

from ..core.errors import BadInputError, RefusedError


def require_permitted(host: str, port: int, *, yours: bool, what: str = "a load test") -> None:
    """Refuse to send `what` to `host` where it is not on this machine or in a private network and
    the user does not say that it is `yours`. Link-local addresses, such as those of cloud metadata
    services, are refused always.

    Raises `RefusedError`, and `BadInputError` for a name that has no address.
    """
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise BadInputError(f"{host}: no address is known for this name ({error})") from error
    for address in sorted({str(row[4][0]) for row in rows}):
        _require_permitted(host, address, yours, what)


def _require_permitted(host: str, address: str, yours: bool, what: str) -> None:
    ip = ipaddress.ip_address(address)
    ip = getattr(ip, "ipv4_mapped", None) or ip
    named = host if host == address else f"{host} ({address})"
    if ip.is_link_local or ip.is_multicast:
        raise RefusedError(
            f"{named}: is a link-local or multicast address, which {what} is never sent to. Use "
            "the server's own address"
        )
    if not (ip.is_private or yours):
        raise RefusedError(
            f"{named}: is not on this machine or in a private network. So many requests can be "
            f"taken for an attack: add --yes-this-is-mine if the server is yours to send {what} to"
        )
