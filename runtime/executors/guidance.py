"""Compile the grammars of guides with llguidance, for the engines that follow them.

A grammar comes from a client, and one that is short can still take long: `multipleOf` with a large
prime takes ten seconds and 400 MB, and nothing can interrupt it. So a grammar is first compiled in
a child process with limits. What passes there is compiled in this process, with the tokens of the
model.
"""

from __future__ import annotations

import re
import threading
from typing import ClassVar, Final

import llguidance

from ..answers import MARKERS
from ..errors import RequestError
from ..isolation import Limits, Worker, WorkError, serve
from ..vocabulary import CheckpointVocabulary

LIMITS: Final = Limits(seconds=1, memory=128 * 2**20)
"""What compiling one grammar may take."""

_LOCATION: Final = re.compile(r"^(at \d+\(\d+\): )?(failed to compile JSON schema: )?")

_NOTHING: Final = "NoExtensionBias"
"""What the library says where no token may come next."""

_MOST_REASON: Final = 300
"""The longest reason of the library that is passed on, in characters."""


class GuideError(RequestError):
    """A grammar allows no token at a point of an answer, or became too complex there."""


class Matcher:
    """Follows one answer through its grammar. `end` is the token that ends an answer."""

    def __init__(self, matcher: llguidance.LLMatcher, end: int) -> None:
        self._matcher = matcher
        self.end = end

    def copy(self) -> Matcher:
        """A matcher at the same point of another answer."""
        return Matcher(self._matcher.deep_copy(), self.end)

    def allowed(self) -> bytes:
        """For each token whether it may come next: 0, or another byte. Raises `GuideError`."""
        allowed = self._matcher.compute_logit_bias()
        self._require_usable()
        return allowed

    def take(self, token: int) -> None:
        """Go on by a token that is allowed and does not end the answer. Raises `GuideError`."""
        self._matcher.consume_token(token)
        self._require_usable()

    def _require_usable(self) -> None:
        if self._matcher.is_error():
            reason = _reason(self._matcher.get_error())
            raise GuideError(f"the grammar cannot be followed at this point: {reason}")


class GuideCompiler:
    """Compiles grammars for a model with the tokenizer `tokenizer_json` (the text of its file),
    whose logits are those of `size` tokens, of which `end` ends an answer. Thread-safe."""

    def __init__(self, tokenizer_json: str, size: int, end: int) -> None:
        self._tokenizer = llguidance.LLTokenizer(tokenizer_json, n_vocab=size, eos_token=end)
        self._end = end
        self._worker = Worker(__name__, LIMITS)
        self._checking = threading.Lock()

    def compile(self, grammar: str) -> Matcher:
        """A matcher at the beginning of an answer. Raises `RequestError` for a grammar that cannot
        be used, with the library's reason."""
        with self._checking:
            try:
                error = self._worker.ask(grammar)
            except WorkError as limit:
                raise RequestError(f"its grammar cannot be compiled: {limit}") from limit
        if error:
            raise RequestError(_reason(error))
        matcher = Matcher(llguidance.LLMatcher(self._tokenizer, grammar, log_level=0), self._end)
        matcher.allowed()
        return matcher

    def close(self, timeout: float) -> None:
        """End the child process, unless it is busy for `timeout` seconds."""
        if self._checking.acquire(timeout=timeout):
            self._worker.close()
            self._checking.release()


def compiler_of_engine(vocabulary: CheckpointVocabulary, end: int | None) -> GuideCompiler | None:
    """A compiler as that of an engine, which ends guided answers with `end`, the end token of its
    tokenizer, and no other one. None where that does not end answers here."""
    if end not in vocabulary.end_tokens:
        return None
    return GuideCompiler(vocabulary.tokenizer_json, vocabulary.size, end)


def _reason(error: str) -> str:
    """The library's message in one line."""
    reason = _LOCATION.sub("", error.partition("\n")[0])
    return "no text conforms to it" if reason == _NOTHING else reason[:_MOST_REASON]


class _Bytes:
    """The vocabulary of the child: single bytes, the end of an answer, and the markers."""

    eos_token_id = 256
    bos_token_id = None
    tokens: ClassVar = [
        *(bytes([byte]) for byte in range(256)),
        b"<end>",
        *map(str.encode, MARKERS),
    ]
    special_token_ids: ClassVar = list(range(256, len(tokens)))

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def _work(grammar: str) -> str:
    """The child's work: what is wrong with a grammar, or nothing."""
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()))
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    matcher.compute_bitmask()
    return str(matcher.get_error())


if __name__ == "__main__":
    serve(_work)
