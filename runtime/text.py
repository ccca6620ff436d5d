"""Tokens to text, piece by piece: whole characters only, and no part of a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tokenizers.decoders import DecodeStream


class Detokenizer(Protocol):
    """Text of a growing token sequence, in whole characters.

    A token that ends within a character adds nothing until the character is complete.
    """

    def push(self, token: int) -> str:
        """The text that `token` completes."""

    @property
    def pending(self) -> int:
        """How many of the last tokens have given no text yet."""


class TokenizerDetokenizer:
    """A detokenizer for `tokenizer`, a `tokenizers.Tokenizer`; tokens in `silent` have no text."""

    def __init__(self, tokenizer: Any, silent: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._silent = silent
        self._stream = DecodeStream(skip_special_tokens=False)
        self._pending = 0

    def push(self, token: int) -> str:
        """The text that `token` completes."""
        text = "" if token in self._silent else self._stream.step(self._tokenizer, token) or ""
        self._pending = 0 if text else self._pending + 1
        return text

    @property
    def pending(self) -> int:
        return self._pending


class StopWords:
    """Passes text through until one of `words` appears; holds back what may be the start of one."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that is safe to send, the stop word met or None). After a stop word, no more."""
        if not self._words:
            return text, None
        held = self._held + text
        met = min(
            ((held.find(word), word) for word in self._words if word in held),
            key=lambda match: (match[0], -len(match[1])),
            default=None,
        )
        if met is not None:
            self._held = ""
            return held[: met[0]], met[1]
        keep = max((_overlap(held, word) for word in self._words), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], None

    def flush(self) -> str:
        """What was held back, once no more text will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `word`."""
    for length in range(min(len(text), len(word) - 1), 0, -1):
        if text.endswith(word[:length]):
            return length
    return 0
