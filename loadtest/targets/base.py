"""What a load test needs of a server, whatever protocol it speaks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from ..sample import Failure, Kind

MESSAGE_LENGTH: Final = 300


@dataclass(frozen=True, slots=True)
class Request:
    """One generation to ask for.

    Attributes:
        id: Unique among all tests of a server.
        prompt: The prompt, or the user's message where the protocol takes conversations.
        history: The earlier prompts of this conversation, each with its answer.
        max_tokens: Output tokens at most; all of them with `ignore_eos`.
    """

    id: str
    prompt: str
    max_tokens: int
    ignore_eos: bool = False
    history: tuple[tuple[str, str], ...] = ()

    @property
    def whole_prompt(self) -> str:
        """The conversation so far as one text, for protocols that take no conversations."""
        return "".join(prompt + answer for prompt, answer in self.history) + self.prompt


@dataclass(frozen=True, slots=True)
class Piece:
    """What one response adds. Counts and times come with some responses only, mostly the last.

    Attributes:
        text: Text of the answer.
        reasoning: Text of the reasoning before it.
        output_tokens: Tokens of the whole output so far, reasoning included.
        prompt_tokens: Tokens of the prompt.
        queue: Seconds that the request waited in the server before it was scheduled.
    """

    text: str = ""
    reasoning: str = ""
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    queue: float | None = None


class RequestFailedError(Exception):
    """A request failed. With `refused`, a new connection may help: this one, or the server behind
    it, turned the request away before it generated anything."""

    def __init__(self, kind: Kind, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.failure = Failure(kind, " ".join(message.split())[:MESSAGE_LENGTH])
        self.refused = refused

    @property
    def suspicious(self) -> bool:
        """Whether the server may be gone."""
        return self.failure.kind in (Kind.UNREACHABLE, Kind.CLOSED, Kind.TIMEOUT)


class Target(Protocol):
    """A server and its protocol, for one event loop.

    Attributes:
        url: The server, as people write it.
        deltas: Whether each response holds new text only by definition of the protocol.
    """

    url: str
    deltas: bool

    async def check(self, model: str | None) -> str:
        """The name of the model to use: `model`, or the only one.

        Raises `BadInputError` where no server answers or it has no such model fit for the test.
        """

    async def open(self, streams: int) -> None:
        """Connect for so many streams at once, so that no request waits for a connection."""

    def stream(self, request: Request, on_send: Callable[[], None]) -> AsyncGenerator[Piece, None]:
        """Send `request` and yield each response as it comes, empty ones included; `on_send` is
        called right before it is sent. Closing the iterator ends the generation.

        Raises `RequestFailedError`.
        """

    async def answers(self) -> bool:
        """Whether a new connection reaches a live server."""

    async def close(self) -> None:
        """Close all connections."""
