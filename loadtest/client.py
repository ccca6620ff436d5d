"""One request, sent and measured."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from .client_clock import StampingSelector
from .prompts import Work
from .sample import Failure, Kind, Sample, Transcript
from .sender import Destination
from .share import InFlight
from .targets.base import Request, RequestFailedError, Target

_RETRY_PAUSE_S: Final = 0.2

History = tuple[tuple[str, str], ...]
"""The earlier prompts of a conversation, each with its answer."""

OUTSTANDING: Final = "outstanding when the level ended"


@dataclass(slots=True, eq=False)
class _Attempt:
    """What is known of a request so far. Times as `time.perf_counter` gives them; `reasoning` is
    how many characters of it came."""

    transcript: Transcript
    due: float
    sent: float | None = None
    first_byte: float | None = None
    content: float | None = None
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    queue: float | None = None
    reasoning: int = 0
    retries: int = 0


class Client:
    """Sends requests of a test to a target and measures them. For one event loop, which polls with
    `selector`.

    `died` is set once a request failed and the server could then not be reached at all; `death`
    says which failure that was.
    """

    def __init__(
        self, target: Target, destination: Destination, selector: StampingSelector
    ) -> None:
        self._target, self._destination, self._selector = target, destination, selector
        self._ids = itertools.count()
        self._run_id = secrets.token_hex(4)  # two tests of one server must not share request ids
        self._probing = asyncio.Lock()
        self._outstanding: set[_Attempt] = set()
        self.died = asyncio.Event()
        self.death = ""

    async def send(
        self,
        work: Work,
        due: float,
        started: float,
        record: Callable[[Sample], None],
        history: History = (),
    ) -> str | None:
        """Do `work` now, after the conversation `history`. It was due at `due`, in a level that
        began at `started`, both in `time.perf_counter` seconds. Gives the answer, None where there
        is none, and "" where no follow-up needs it.

        Exactly one sample is recorded: a failure is a sample with `failure`, never an exception. So
        is a request that is cancelled, before the cancellation goes on.
        """
        keep_text = self._destination.keep_text or work.follow_up is not None
        attempt = _Attempt(Transcript(keep_text=keep_text, deltas=self._target.deltas), due)
        request = Request(
            f"loadtest-{self._run_id}-{next(self._ids)}",
            work.prompt,
            work.max_tokens,
            self._destination.ignore_eos,
            history,
        )
        self._outstanding.add(attempt)
        failure: Failure | None = Failure(Kind.UNFINISHED, OUTSTANDING)
        suspicious, limit_s = False, self._destination.timeout_s
        try:
            try:
                async with asyncio.timeout(limit_s):
                    await self._send(request, attempt)
                failure = None
            except RequestFailedError as error:
                failure, suspicious = error.failure, error.suspicious
            except TimeoutError:
                message = f"no complete answer within {limit_s:g} s"
                failure, suspicious = Failure(Kind.TIMEOUT, message), True
        finally:
            self._outstanding.discard(attempt)
            sample = _sample(request, attempt, started, failure)
            record(sample)
        if sample.failure is not None and suspicious:
            await self._probe(sample.failure.message)
        if sample.failure is not None:
            return None
        # The reasoning of an answer is no part of a conversation.
        return sample.text[attempt.reasoning :]

    def in_flight(self) -> list[InFlight]:
        """The requests that have not ended."""
        now = time.perf_counter()
        return [
            InFlight(now - attempt.due, silent=not attempt.transcript.arrivals)
            for attempt in self._outstanding
        ]

    async def _send(self, request: Request, attempt: _Attempt) -> None:
        try:
            await self._receive(request, attempt)
        except RequestFailedError as error:
            # Nothing was generated yet, so nothing can be generated twice.
            if not error.refused or attempt.transcript.arrivals:
                raise
            attempt.retries = 1
            await asyncio.sleep(_RETRY_PAUSE_S)
            await self._receive(request, attempt)

    async def _receive(self, request: Request, attempt: _Attempt) -> None:
        def on_send() -> None:
            if attempt.sent is None:
                attempt.sent = time.perf_counter()

        transcript, due, selector = attempt.transcript, attempt.due, self._selector
        async with aclosing(self._target.stream(request, on_send)) as pieces:
            async for piece in pieces:
                now = time.perf_counter()
                if attempt.first_byte is None:
                    attempt.first_byte = now
                if piece.text and attempt.content is None:
                    attempt.content = now
                attempt.reasoning += len(piece.reasoning)
                if text := piece.reasoning + piece.text:
                    transcript.add(text, now - due, now - selector.ready_since)
                if piece.output_tokens is not None:
                    attempt.output_tokens = piece.output_tokens
                    attempt.prompt_tokens = piece.prompt_tokens
                if piece.queue is not None:
                    attempt.queue = piece.queue

    async def _probe(self, error: str) -> None:
        async with self._probing:
            if not self.died.is_set() and not await self._target.answers():
                self.death = error
                self.died.set()


def _sample(request: Request, attempt: _Attempt, started: float, failure: Failure | None) -> Sample:
    """What is kept of a request that ends now."""
    ended, due, transcript = time.perf_counter(), attempt.due, attempt.transcript
    transcript.finish()
    if failure is None and not transcript.arrivals:
        failure = Failure(Kind.EMPTY, "the model ended without any text")

    def after_due(moment: float | None) -> float | None:
        return None if moment is None else moment - due

    return Sample(
        due=due - started,
        sent=(attempt.sent or ended) - due,
        arrivals=transcript.arrivals,
        ended=ended - due,
        first_byte=after_due(attempt.first_byte),
        waits=transcript.waits,
        content=after_due(attempt.content),
        text=transcript.text,
        lengths=transcript.lengths,
        server_tokens=attempt.output_tokens,
        prompt_tokens=attempt.prompt_tokens,
        queue=attempt.queue,
        asked=request.max_tokens,
        retries=attempt.retries,
        failure=failure,
        request_id=request.id,
    )
