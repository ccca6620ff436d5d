"""Connections are renewed before the server ends, so that no request meets a closing one."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

_MOST: Final = 10_000
"""Connections to remember. Those that clients close are not reported."""


class Renewed:
    """The application `app`, whose answers end connections older than `age` seconds, and those that
    carry a stream of events.

    A server that ends closes its idle connections, and a request that is being sent on one in this
    moment gets no answer. In Kubernetes new connections have gone to other pods for a while by
    then: if connections are renewed more often than that, only streams that began before are left,
    and the client of such a stream must not use its connection again.
    """

    def __init__(
        self, app: ASGIApp, age: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app, self._age, self._clock = app, age, clock
        self._since: dict[Any, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client, now = scope["client"], self._clock()
        old = now - self._since.setdefault(client, now) >= self._age

        async def ending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and (old or _is_stream(message)):
                self._since.pop(client, None)
                headers = [*message["headers"], (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        if len(self._since) > _MOST:
            self._since.clear()
        await self._app(scope, receive, ending)


def _is_stream(start: MutableMapping[str, Any]) -> bool:
    return any(
        name == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in start["headers"]
    )
