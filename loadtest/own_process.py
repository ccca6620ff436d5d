"""Sends the requests of a test from this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

from .client import Client
from .client_clock import StampingSelector
from .sender import Destination, Record
from .sending import Sending
from .share import Held, InFlight, Share
from .targets.base import Target
from .targets.factory import connect


class OwnProcess:
    """A `Sender`: this process, whose event loop polls with `selector`. Sends to `target`."""

    processes = 1

    def __init__(
        self, target: Target, destination: Destination, selector: StampingSelector
    ) -> None:
        self._target, self._model = target, destination.model
        self._client = Client(target, destination, selector)
        self.url = target.url
        self.died = self._client.died

    @classmethod
    async def connected(cls, destination: Destination, selector: StampingSelector) -> Self:
        """Raises what `targets.factory.connect` raises."""
        target = await connect(destination.url, destination.protocol, yours=destination.yours)
        return cls(target, destination, selector)

    @property
    def death(self) -> str:
        """See `Sender`."""
        return (
            f"the server at {self.url} stopped answering during the test ({self._client.death}); "
            "read its log, and start the test again once it is ready"
        )

    async def check(self) -> str:
        """See `Sender`."""
        return await self._target.check(self._model)

    async def open(self, streams: int) -> None:
        """Connect for so many streams at once."""
        await self._target.open(streams)

    async def send(self, share: Share, end: asyncio.Event, record: Record) -> Held:
        """`hold` without connecting first."""
        return await Sending(self._client, share, end=end, record=record).run()

    async def hold(self, share: Share, streams: int, end: asyncio.Event, record: Record) -> Held:
        """See `Sender`."""
        await self.open(streams)
        return await self.send(share, end, record)

    def in_flight(self) -> Sequence[InFlight]:
        """See `Sender`."""
        return self._client.in_flight()

    async def close(self) -> None:
        """See `Sender`."""
        await self._target.close()
