"""Starts the fake servers of tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def started(kind: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Gives what starts servers of a kind; they are stopped at the end."""
    servers: list[Any] = []

    def start(**fields: Any) -> Any:
        server = kind(**fields)
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()
