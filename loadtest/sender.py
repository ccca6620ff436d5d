"""What sends the requests of a test: this process (`own_process.py`), or others (`workers/`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from .config import LoadTest
from .sample import Sample
from .share import Held, InFlight, Share

Record = Callable[[Sequence[Sample]], None]
"""Receives requests that have ended."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The server of a test, and what all requests ask of it.

    Attributes:
        url: As people write it.
        protocol: One of `targets.factory.TARGETS`, or `auto`.
        model: The served model; None takes the only one.
        yours: Whether a server outside of private networks is the user's own.
        ignore_eos: Whether outputs are to be as long as asked for.
        timeout_s: A request that takes longer has failed.
        keep_text: Whether the text of outputs is kept, to count its tokens.
    """

    url: str
    protocol: str = "auto"
    model: str | None = None
    yours: bool = False
    ignore_eos: bool = False
    timeout_s: float = 120.0
    keep_text: bool = False

    @classmethod
    def of(cls, url: str, test: LoadTest) -> Self:
        """What `test` sends to `url`."""
        return cls(
            url,
            test.protocol,
            test.model,
            test.yours,
            test.ignore_eos,
            test.timeout_s,
            keep_text=test.count_tokens is not None,
        )


class Sender(Protocol):
    """One process or several that send requests to a server, for one event loop.

    Attributes:
        url: The server, as people write it.
        processes: How many processes send.
        died: Set once a level cannot go on, because the server can no longer be reached or a
            process has failed.
    """

    url: str
    processes: int
    died: asyncio.Event

    @property
    def death(self) -> str:
        """Why `died` was set, as a sentence."""

    async def check(self) -> str:
        """The name of the model that is tested.

        Raises `BadInputError` where no server answers or it has no model fit for the test.
        """

    async def hold(self, share: Share, streams: int, end: asyncio.Event, record: Record) -> Held:
        """Connect for so many `streams`, and send `share` until all its requests have ended, or
        `end` is set. `record` receives each sample once it has ended, those that were cut off
        included."""

    def in_flight(self) -> Sequence[InFlight]:
        """The requests that have been sent and have not ended, as far as is known here: together
        with what was recorded so far, each request is there once."""

    async def close(self) -> None:
        """Close all connections and end the other processes."""
