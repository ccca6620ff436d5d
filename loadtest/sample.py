"""What is kept of one request: when it was due and sent, when text arrived, how it ended."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from typing import Final

CountTokens = Callable[[str], int]


class Kind(StrEnum):
    """Why a request failed, for counting."""

    UNREACHABLE = "unreachable"
    """The connection was refused or lost before a response."""
    CLOSED = "closed"
    """The stream ended before its last response."""
    TIMEOUT = "timeout"
    """The answer was not complete in time."""
    OVERLOADED = "overloaded"
    """The server refused the request for lack of capacity."""
    SERVER = "server error"
    """The server reported an error."""
    REJECTED = "rejected"
    """The server found the request itself wrong."""
    GARBAGE = "garbage"
    """The answer does not follow the protocol."""
    EMPTY = "empty"
    """The answer ended without any text."""
    UNFINISHED = "unfinished"
    """The request was outstanding when the server died or the test was interrupted."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How a request failed."""

    kind: Kind
    message: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished request. `due` is in seconds after the level's start, all other times are in
    seconds after `due`; about 20 bytes per response.

    Attributes:
        due: When the request was to be sent.
        sent: When it was sent.
        arrivals: When each response with new text came.
        ended: When the request ended, well or not.
        first_byte: When the first response came, with or without text.
        waits: Of each of `arrivals`, how long it can have waited in this process at most.
        content: When the first text that is not reasoning came.
        text: The whole output, kept only where tokens are counted with a tokenizer.
        lengths: How many characters each of `arrivals` brought.
        server_tokens: Output tokens that the server counted.
        prompt_tokens: Prompt tokens that the server counted.
        queue: Seconds that the request waited in the server, where it says.
        asked: Output tokens that were asked for.
        retries: Times that the request was sent again before its first token.
        failure: Why it failed, or None.
        request_id: The id that the server was given.
    """

    due: float
    sent: float
    arrivals: array[float]
    ended: float
    first_byte: float | None = None
    waits: array[float] = field(default_factory=lambda: array("d"))
    content: float | None = None
    text: str = ""
    lengths: array[int] = field(default_factory=lambda: array("L"))
    server_tokens: int | None = None
    prompt_tokens: int | None = None
    queue: float | None = None
    asked: int = 0
    retries: int = 0
    failure: Failure | None = None
    request_id: str = ""


SERVER: Final = "server"
TOKENIZER: Final = "tokenizer"
RESPONSES: Final = "responses"
COUNTINGS: Final = (SERVER, TOKENIZER, RESPONSES)
"""Who counted the tokens of an output, the most trustworthy first."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one output: how many, who counted them, and how many each response brought."""

    total: int
    counting: str
    of_responses: tuple[int, ...]


def count(sample: Sample, tokenizer: CountTokens | None) -> Tokens:
    """Count the tokens of `sample`: the server's number, else the tokenizer's of the whole text,
    else one for each response.

    With a tokenizer each response brings what its text amounts to. Without one, the server's number
    is shared out: one token for each response, the others in proportion to the characters (one
    that is left over is the end token, which has no text).
    """
    responses = len(sample.arrivals)
    if sample.server_tokens is not None:
        if tokenizer:
            return Tokens(sample.server_tokens, SERVER, _tokenized(sample, tokenizer))
        return Tokens(sample.server_tokens, SERVER, _shared_out(sample))
    if tokenizer:
        return Tokens(tokenizer(sample.text), TOKENIZER, _tokenized(sample, tokenizer))
    return Tokens(responses, RESPONSES, (1,) * responses)


def _tokenized(sample: Sample, tokenizer: CountTokens) -> tuple[int, ...]:
    ends = list(accumulate(sample.lengths))
    starts = [0, *ends[:-1]] if ends else []
    pieces = (sample.text[start:end] for start, end in zip(starts, ends, strict=True))
    return tuple(max(1, tokenizer(piece)) for piece in pieces)


def _shared_out(sample: Sample) -> tuple[int, ...]:
    responses = len(sample.arrivals)
    surplus = (sample.server_tokens or 0) - responses
    if surplus <= 1:
        return (1,) * responses
    characters = list(accumulate(sample.lengths))
    shares = [round(surplus * each / characters[-1]) for each in characters]
    return tuple(1 + each - before for before, each in zip([0, *shares], shares, strict=False))


class Transcript:
    """Collects streamed text that may come as deltas or cumulatively; a server does not say which.

    A stream is cumulative while each response begins with the one before it. The first that does
    not proves deltas, and what was read so far is taken back into deltas. A response that only
    repeats the text before it brings nothing new, unless no response ever does: equal responses
    throughout are deltas (a model stuck on one token).

    Two responses such as `a`, `ab` fit both readings and are read as cumulative. Protocols that
    define deltas say so with `deltas`.
    """

    def __init__(self, *, keep_text: bool, deltas: bool = False) -> None:
        self.arrivals: array[float] = array("d")
        self.lengths: array[int] = array("L")
        self.waits: array[float] = array("d")
        self.text = ""
        self._texts: list[str] = []
        self._cumulative = not deltas
        self._previous = ""
        self._keep_text = keep_text

    def add(self, text: str, at: float, wait: float = 0.0) -> None:
        """Take one response; one without text is ignored. `at` and `wait` are in seconds."""
        if not text:
            return
        self.arrivals.append(at)
        self.waits.append(wait)
        if self._cumulative and not text.startswith(self._previous):
            self._settle_as_deltas()
        if self._cumulative:
            self.lengths.append(len(text) - len(self._previous))
            self._previous = text
        else:
            self.lengths.append(len(text))
            if self._keep_text:
                self._texts.append(text)

    def finish(self) -> None:
        """Decide how the stream is to be read; the attributes are final from now on."""
        if self._cumulative and not any(self.lengths[1:]):
            self._settle_as_deltas()
        if self._cumulative:
            kept = [index for index, length in enumerate(self.lengths) if length]
            self.arrivals = array("d", (self.arrivals[index] for index in kept))
            self.waits = array("d", (self.waits[index] for index in kept))
            self.lengths = array("L", (self.lengths[index] for index in kept))
            self._texts = [self._previous]
        self.text = "".join(self._texts) if self._keep_text else ""

    def _settle_as_deltas(self) -> None:
        """Each text so far began with the one before it: as deltas, each is what it was."""
        self._cumulative = False
        ends = list(accumulate(self.lengths))
        if self._keep_text:
            self._texts = [self._previous[:end] for end in ends]
        self.lengths = array("L", ends)
        self._previous = ""


def gaps(sample: Sample, of_responses: tuple[int, ...]) -> Iterator[float]:
    """Inter-token latencies: a response of n tokens after a gap gives n gaps of its n-th part.

    The first response gives none: its wait is the time to first token.
    """
    previous: float | None = None
    for at, tokens in zip(sample.arrivals, of_responses, strict=True):
        if previous is not None:
            for _ in range(tokens):
                yield (at - previous) / tokens
        previous = at
