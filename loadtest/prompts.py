"""What the requests of a test ask for."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

from ..core.errors import BadInputError, UsageError


@dataclass(frozen=True, slots=True)
class Work:
    """One generation, or a conversation of several.

    Attributes:
        prompt: The prompt.
        max_tokens: How many output tokens to ask for.
        follow_up: What is sent, with this prompt and its answer before it, once that has come.
        think_s: Seconds between the answer and the follow-up.
    """

    prompt: str
    max_tokens: int
    follow_up: Work | None = None
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Numbers of tokens, evenly distributed from `least` to `most`."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `N` or `MIN:MAX`. Raises `UsageError`."""
        match = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", text, re.ASCII)
        least = int(match[1]) if match else 0
        most = int(match[2] or least) if match else 0
        if not 0 < least <= most:
            raise UsageError(
                f"--prompt-tokens {text!r}: must be a number of tokens or MIN:MAX, for example 512 "
                "or 256:1024"
            )
        return cls(least, most)


def repeated(prompts: Sequence[str], max_tokens: int) -> Iterator[Work]:
    """Work without end: `prompts` in turn, over and over."""
    for prompt in itertools.cycle(prompts):
        yield Work(prompt, max_tokens)


def unrepeated(work: Sequence[Work]) -> Iterator[Work]:
    """Work without end: `work` in turn, from the second time on behind the number of the time, so
    that no cache of prefixes shortens a prompt that was there before."""
    yield from work
    for time in itertools.count(2):
        for each in work:
            yield Work(f"({time}) {each.prompt}", each.max_tokens)


def from_file(path: Path, max_tokens: int) -> list[Work]:
    """The work in a file: a prompt a line, as text or as a JSON object with `prompt` and, if it is
    to be another than `max_tokens`, `output_length`.

    Raises `BadInputError` for a file that cannot be read or a line that is neither.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read: {error}") from error
    work = [
        _from_line(f"{path}:{number}", line, max_tokens)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not work:
        raise BadInputError(f"{path}: holds no prompts")
    return work


def _from_line(place: str, line: str, max_tokens: int) -> Work:
    if not line.lstrip().startswith("{"):
        return Work(line, max_tokens)
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadInputError(f"{place}: not readable as JSON ({error})") from error
    prompt, length = row.get("prompt"), row.get("output_length", max_tokens)
    if not (isinstance(prompt, str) and prompt and is_count(length)):
        raise BadInputError(
            f"{place}: needs a text `prompt`, and as `output_length`, if given, a number of tokens"
        )
    return Work(prompt, length)


def is_count(value: Any) -> bool:
    """Whether `value` is a whole number above zero."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, without those that a tokenizer adds."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""

    def size(self) -> int:
        """How many tokens there are."""


_LEAST_WORDS: Final = 16
_TRIES: Final = 100


class PromptMaker:
    """Makes prompts with exact numbers of tokens, which no other one begins like.

    They are rows of words that are one token each, wherever they stand. With the same `seed`, the
    same prompts are made. Raises `BadInputError` for a tokenizer that has too few such words.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer, self._seed = tokenizer, seed
        self._words = [
            text
            for text in (tokenizer.decode([number]) for number in range(tokenizer.size()))
            if re.fullmatch(r" [A-Za-z]+", text) and len(tokenizer.encode(text + text)) == 2
        ]
        if len(self._words) < _LEAST_WORDS:
            raise BadInputError(
                f"the tokenizer has {len(self._words)} words that are one token each, too few for "
                f"prompts of an exact length ({_LEAST_WORDS} are needed); use --prompts FILE"
            )
        self._generator = random.Random(f"prompts {seed}")  # noqa: S311 (no secrets)
        self._made: set[str] = set()

    def lengths(self, lengths: Lengths, max_tokens: int, shared: float = 0.0) -> Iterator[Work]:
        """Work without end, with prompts of `lengths`. The `shared` part of each is the same text
        for all."""
        prefix = self._row(f"prefix {self._seed}", lengths.most)
        while True:
            length = self._generator.randint(lengths.least, lengths.most)
            yield Work(self.prompt(length, prefix[: round(shared * length)]), max_tokens)

    def prompt(self, length: int, prefix: Sequence[str] = ()) -> str:
        """A new prompt of `length` tokens that begins with the words of `prefix`."""
        for _ in range(_TRIES):
            words = [*prefix, *self._generator.choices(self._words, k=length - len(prefix))]
            text = "".join(words)
            if text not in self._made and len(self._tokenizer.encode(text)) == length:
                self._made.add(text)
                return text
        raise UsageError(
            f"there are no more different prompts of {length} tokens, of which {len(prefix)} are "
            "shared: make them longer, or share less"
        )

    def block(self, name: int, length: int) -> list[str]:
        """The words of a block that several prompts share; the same for the same `name`."""
        return self._row(f"block {self._seed} {name}", length)

    def _row(self, name: str, length: int) -> list[str]:
        return random.Random(name).choices(self._words, k=length)  # noqa: S311 (no secrets)
