"""Compile the grammars of guides with llguidance, for the engines that follow them.

A grammar comes from a client, and one that is short can still take long: `multipleOf` with a large
prime compiles for ten seconds. So it is first compiled in a child process with limits. What passes
there is compiled in this process, with the tokens of the model.
"""

from __future__ import annotations

import re
import threading
from typing import Final

import llguidance

from ..generation import RequestError
from ..isolation import Limits, Worker, WorkError, serve

LIMITS: Final = Limits(seconds=1, memory=128 * 2**20)
"""What compiling one grammar may take."""

_LOCATION: Final = re.compile(r"^(at \d+\(\d+\): )?(failed to compile JSON schema: )?")

_MOST_REASON: Final = 300
"""The longest reason of the library that is passed on, in characters."""


class GuideCompiler:
    """Compiles grammars for a model with the tokenizer `tokenizer_json` (the text of its file),
    whose logits have `size` tokens, of which `end` ends an answer. Thread-safe."""

    def __init__(self, tokenizer_json: str, size: int, end: int) -> None:
        self._tokenizer = llguidance.LLTokenizer(tokenizer_json, n_vocab=size, eos_token=end)
        self._worker = Worker(__name__, LIMITS)
        self._checking = threading.Lock()

    def compile(self, grammar: str) -> llguidance.LLMatcher:
        """A matcher at the beginning of an answer. Raises `RequestError` for a grammar that cannot
        be used, with the library's reason."""
        with self._checking:
            try:
                error = self._worker.ask(grammar)
            except WorkError as limit:
                raise RequestError(str(limit)) from limit
        if error:
            raise _refused(error)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        matcher.compute_bitmask()
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return matcher

    def close(self, timeout: float) -> None:
        """End the child process, unless it is busy for `timeout` seconds."""
        if self._checking.acquire(timeout=timeout):
            self._worker.close()
            self._checking.release()


def _refused(error: str) -> RequestError:
    return RequestError(_LOCATION.sub("", error.partition("\n")[0])[:_MOST_REASON])


def _work(grammar: str) -> str:
    """The child's work: what is wrong with a grammar, or nothing."""
    return str(llguidance.LLMatcher.validate_grammar(grammar))


if __name__ == "__main__":
    serve(_work)
