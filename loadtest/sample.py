"""What is kept of one request: when text arrived, and, if tokens are to be counted, the text."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished request. Times in seconds after its intended send; about 8 bytes per response.

    Attributes:
        arrivals: When each response with new text came.
        ended: When the request ended, well or not.
        text: The whole output, kept only where tokens are counted with a tokenizer.
        lengths: How many characters of `text` each response brought.
        retries: Times that the request was sent again before its first token.
        error: Why it failed, or None.
    """

    arrivals: array[float]
    ended: float
    text: str = ""
    lengths: array[int] = field(default_factory=lambda: array("L"))
    retries: int = 0
    error: str | None = None

    @property
    def ttft(self) -> float:
        """Time to the first non-empty response."""
        return self.arrivals[0]

    def tokens(self, count: Callable[[str], int] | None) -> int:
        """Output tokens: of the whole text by `count`, else one for each response."""
        return count(self.text) if count else len(self.arrivals)

    def gaps(self, count: Callable[[str], int] | None) -> Iterator[float]:
        """Inter-token latencies: a response of n tokens after a gap gives n gaps of its n-th part.

        The first response gives none: its wait is the time to first token.
        """
        weights = self._response_tokens(count) if count else (1 for _ in self.arrivals)
        previous: float | None = None
        for at, tokens in zip(self.arrivals, weights, strict=True):
            if previous is not None:
                for _ in range(tokens):
                    yield (at - previous) / tokens
            previous = at

    def _response_tokens(self, count: Callable[[str], int]) -> Iterator[int]:
        end = 0
        for length in self.lengths:
            start, end = end, end + length
            yield max(1, count(self.text[start:end]))


class Transcript:
    """Collects streamed text that may come as deltas or cumulatively; a server does not say which.

    A stream is cumulative while each response begins with the one before it. The first that does
    not proves deltas, and what was read so far is taken back into deltas. A response that only
    repeats the text before it brings nothing new, unless no response ever does: equal responses
    throughout are deltas (a model stuck on one token).

    Two responses such as `a`, `ab` fit both readings and are read as cumulative.
    """

    def __init__(self, *, keep_text: bool) -> None:
        self.arrivals: array[float] = array("d")
        self._pieces: list[str] = []
        self._previous = ""
        self._cumulative = True
        self._keep_text = keep_text

    def add(self, text: str, at: float) -> None:
        """Take one response; one without text is ignored. `at` is in seconds."""
        if not text:
            return
        self.arrivals.append(at)
        if self._cumulative and not text.startswith(self._previous):
            self._settle_as_deltas()
        if self._cumulative:
            self._pieces.append(text[len(self._previous) :])
            self._previous = text
        elif self._keep_text:
            self._pieces.append(text)

    def finish(self, *, ended: float, retries: int = 0, error: str | None = None) -> Sample:
        """The sample of this request."""
        if self._cumulative and not any(self._pieces[1:]):
            self._settle_as_deltas()
        if self._cumulative:
            kept = [
                (at, piece) for at, piece in zip(self.arrivals, self._pieces, strict=True) if piece
            ]
            self.arrivals = array("d", (at for at, _ in kept))
            self._pieces = [piece for _, piece in kept]
        pieces = self._pieces if self._keep_text else []
        return Sample(
            arrivals=self.arrivals,
            ended=ended,
            text="".join(pieces),
            lengths=array("L", map(len, pieces)),
            retries=retries,
            error=error,
        )

    def _settle_as_deltas(self) -> None:
        self._cumulative = False
        self._pieces = list(accumulate(self._pieces)) if self._keep_text else []
        self._previous = ""
