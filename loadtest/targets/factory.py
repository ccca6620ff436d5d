"""From an address to its target."""

from __future__ import annotations

from .. import endpoint
from ..permission import require_permitted
from .base import Target
from .triton_grpc import TritonGrpc


def connect(url: str, *, yours: bool) -> Target:
    """The target behind `url`. Connects when it is first used.

    Raises `UsageError` for what is no address, `RefusedError` for one that may not be tested,
    `BadInputError` for a name without an address.
    """
    address = endpoint.parse(url)
    host, _, port = address.rpartition(":")
    require_permitted(host.strip("[]"), int(port), yours=yours)
    return TritonGrpc(address)
