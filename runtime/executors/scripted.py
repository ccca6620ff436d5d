"""The scripted executor: plays answers from a file, for tests and for people who write clients.

A piece of an answer is one token, and a token that ends the answer follows the last one. Everything
else is as in production: templates, limits, reasoning, tool calls, stop texts and counts.
"""

from __future__ import annotations

import codecs
import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..answers import THINK_END
from ..contract import FIRST_SCHEDULED_TIME
from ..errors import StartError
from ..generation import Executor, Failure, Load, TokenRequest, TokenSink, TokenStep
from ..golden import Forced, Scores, Tokens
from ..script import ScriptError, read_script
from ..vocabulary import CheckpointVocabulary, context_length

DROP_SECONDS: Final = 0.05
"""How often requests that have ended are looked for."""

_END: Final = 0
"""The token that ends an answer; pieces are the numbers from 1."""


class ScriptVocabulary:
    """The tokens of a script: its `pieces`."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._numbers: dict[bytes, int] = {}
        for piece in pieces:
            self._numbers.setdefault(piece, len(self._numbers) + 1)
        self._pieces = (b"", *self._numbers)

    @property
    def end_tokens(self) -> frozenset[int]:
        return frozenset({_END})

    def tokens(self, pieces: Sequence[bytes]) -> Tokens:
        """The tokens of pieces."""
        return tuple(self._numbers[piece] for piece in pieces)

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        return self._pieces[token]

    def detokenizer(self) -> PieceDetokenizer:
        """A detokenizer for one answer."""
        return PieceDetokenizer(self)

    def token_text(self, token: int) -> str:
        """One token as text."""
        return self._pieces[token].decode(errors="replace")


class PieceDetokenizer:
    """Text of growing pieces, in whole characters."""

    def __init__(self, vocabulary: ScriptVocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = 0

    def push(self, token: int) -> str:
        """The text that `token` completes."""
        text = self._decoder.decode(self._vocabulary.piece(token))
        incomplete, _ = self._decoder.getstate()
        self._pending = self._pending + 1 if incomplete and not text else bool(incomplete)
        return text

    @property
    def pending(self) -> int:
        return self._pending


@dataclass(order=True, slots=True)
class _Playback:
    """An answer that is being played: its next token is due at `due` (monotonic seconds)."""

    due: float
    number: int
    request: TokenRequest = field(compare=False)
    sink: TokenSink = field(compare=False)
    tokens: deque[int] = field(compare=False)
    pace_s: float = field(compare=False)
    played: int = field(default=0, compare=False)
    started_ns: int = field(default=0, compare=False)


class ScriptedExecutor(Executor):
    """Plays the answers of `script`, at most `max_active` at a time, from one thread.

    Raises `StartError` for a script that cannot be played.
    """

    has_weights = False

    def __init__(
        self, checkpoint: Path, script: Path, *, max_active: int, max_tokens: int | None = None
    ) -> None:
        try:
            self._script = read_script(script)
        except ScriptError as error:
            raise StartError(str(error)) from error
        self.vocabulary = CheckpointVocabulary(checkpoint)
        self.context = max_tokens or context_length(checkpoint)
        self._resumed = [_after_reasoning(answer.pieces) for answer in self._script]
        played = (*(answer.pieces for answer in self._script), *self._resumed)
        self._pieces = ScriptVocabulary(itertools.chain.from_iterable(played))
        self._max_active = max_active
        self._active: list[_Playback] = []
        self._waiting: deque[_Playback] = deque()
        self._numbers = itertools.count()
        self._drop_at = 0.0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="script", daemon=True)
        self._thread.start()

    @property
    def answers(self) -> ScriptVocabulary:
        return self._pieces

    def submit(self, request: TokenRequest, sink: TokenSink) -> None:
        """Queue a request; one that continues an answer comes before others."""
        matching = (i for i, a in enumerate(self._script) if a.when in request.text)
        number = next(matching, None)
        if number is None:
            sink.fail(
                "no answer of the script has a `when` that occurs in the prompt", Failure.INVALID
            )
            return
        answer = self._script[number]
        pieces = self._resumed[number] if request.resumed else answer.pieces
        tokens = deque((*self._pieces.tokens(pieces), _END))
        playback = _Playback(0.0, next(self._numbers), request, sink, tokens, answer.pace_s)
        with self._changed:
            enqueue = self._waiting.appendleft if request.resumed else self._waiting.append
            enqueue(playback)
            self._changed.notify()

    def score(self, cases: Sequence[Forced]) -> list[Scores]:
        """Not possible: there are no weights."""
        raise NotImplementedError

    @property
    def healthy(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive() and not self._closed

    @property
    def load(self) -> Load:
        """As if there were caches: a Mamba state for each of `max_active` answers, and a KV cache
        for as many whole contexts."""
        with self._changed:
            playing = list(self._active)
        tokens = sum(len(playback.request.prompt) + playback.played for playback in playing)
        return Load(
            len(playing),
            tokens / (self._max_active * self.context),
            len(playing) / self._max_active,
        )

    def close(self, timeout: float) -> None:
        """Abandon all answers."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while (playback := self._next()) is not None:
            more = self._play(playback)
            with self._changed:
                if more:
                    playback.due += playback.pace_s
                    playback.number = next(self._numbers)
                    heapq.heapreplace(self._active, playback)
                else:
                    heapq.heappop(self._active)

    def _next(self) -> _Playback | None:
        """The first of the active playbacks, once its token is due; None once closed."""
        with self._changed:
            while not self._closed:
                self._drop_ended()
                while self._waiting and len(self._active) < self._max_active:
                    playback = self._waiting.popleft()
                    playback.started_ns = time.monotonic_ns()
                    playback.due = _next_beat(time.monotonic(), playback.pace_s)
                    heapq.heappush(self._active, playback)
                wait = self._active[0].due - time.monotonic() if self._active else None
                if wait is not None and wait <= 0:
                    return self._active[0]
                self._changed.wait(None if wait is None else min(wait, DROP_SECONDS))
            return None

    def _drop_ended(self) -> None:
        """Free the places of requests that have ended meanwhile, whatever their pace is."""
        now = time.monotonic()
        if now >= self._drop_at:
            self._drop_at = now + DROP_SECONDS
            self._active = [playback for playback in self._active if not playback.sink.done]
            heapq.heapify(self._active)

    def _play(self, playback: _Playback) -> bool:
        """Give the next token. False when that was the last one."""
        if playback.sink.done:
            return False
        token = playback.tokens.popleft()
        playback.played += 1
        last = not playback.tokens
        finish = "stop" if last else None
        if finish is None and playback.played == playback.request.max_tokens:
            finish = "length"
        first = playback.played == 1
        metrics = {FIRST_SCHEDULED_TIME.name: playback.started_ns} if first else {}
        # What a script says is certain: the logarithm of 1.
        certain = () if playback.request.request.logprobs is None else ({token: 0.0},)
        playback.sink.step(TokenStep((token,), finish, 0.0, certain, metrics))
        return finish is None


def _next_beat(now: float, pace_s: float) -> float:
    """When the first token of an answer is due: answers of one pace share their beats, as the
    sequences of an engine share its iterations."""
    return now if pace_s == 0 else (now // pace_s + 1) * pace_s


def _after_reasoning(pieces: Sequence[bytes]) -> tuple[bytes, ...]:
    """What an answer says after its reasoning, which was closed earlier than by the script."""
    end = THINK_END.encode()
    before = b""
    for number, piece in enumerate(pieces):
        before += piece
        if end in before:
            rest = before.partition(end)[2]
            return (*([rest] if rest else []), *pieces[number + 1 :])
    return ()
