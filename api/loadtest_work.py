"""What a load test sends: prompts of its own, of exact lengths, from a file, or a trace."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..core.errors import BadInputError, UsageError
from ..loadtest.prompts import Lengths, PromptMaker, Work, from_file, unrepeated
from ..loadtest.trace import read_trace, work_of
from ..model.catalog import text

_BATCH: Final = 64
_TURNS: Final = 3
"""Questions in a built-in prompt: so many that two prompts are rarely the same."""
_WARM_UP: Final = "Warm up."


@dataclass(frozen=True, slots=True)
class Source:
    """Where the requests of a load test come from; at most one of the first three is given.

    Attributes:
        prompts: A file of prompts.
        prompt_tokens: Lengths of prompts to make, `N` or `MIN:MAX`.
        trace: A file of requests with their times.
        shared_prefix: The part of each made prompt that is the same for all, 0 to 1.
    """

    prompts: Path | None = None
    prompt_tokens: str | None = None
    trace: Path | None = None
    shared_prefix: float = 0.0

    def __post_init__(self) -> None:
        given = [self.prompts, self.prompt_tokens, self.trace]
        if sum(each is not None for each in given) > 1:
            raise UsageError("--prompts, --prompt-tokens and --trace exclude each other; give one")
        if not 0 <= self.shared_prefix < 1:
            raise UsageError(
                f"--shared-prefix {self.shared_prefix:g}: must be from 0 to below 1, for example "
                "0.5 for half of each prompt"
            )
        if self.shared_prefix and self.prompt_tokens is None:
            raise UsageError("--shared-prefix is for the prompts of --prompt-tokens")

    def __str__(self) -> str:
        if self.trace is not None:
            return f"the requests of the trace {self.trace}"
        if self.prompts is not None:
            return f"the prompts of {self.prompts}"
        if self.prompt_tokens is None:
            return "generated questions, none twice"
        shared = f", of which {self.shared_prefix:.0%} are the same for all"
        return f"prompts of {self.prompt_tokens} tokens{shared if self.shared_prefix else ''}"


@dataclass(frozen=True, slots=True)
class Requests:
    """Work without end, or that of a trace; `schedule` is when its requests are due, in seconds."""

    work: Iterator[Work]
    schedule: tuple[float, ...] = ()


class LoadedTokenizer:
    """A tokenizer that a file describes. Raises `BadInputError` for a file that is none."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise BadInputError(f"{file}: no such file; name a tokenizer.json or its directory")
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing more specific
            raise BadInputError(f"{file}: is no tokenizer.json: {error}") from error

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer`."""
        decoded: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return decoded

    def size(self) -> int:
        """See `Tokenizer`."""
        return int(self._tokenizer.get_vocab_size())

    def count(self, text: str) -> int:
        """The number of tokens of `text`."""
        return len(self.encode(text))

    def save(self, path: Path) -> None:
        """Write it as a tokenizer.json."""
        self._tokenizer.save(str(path))


def requests_of(
    source: Source, *, max_tokens: int, tokenizer: LoadedTokenizer | None, seed: int, warmup: int
) -> Requests:
    """What `source` asks for, with outputs of `max_tokens` unless it says otherwise; a trace begins
    with `warmup` requests that have no time.

    Raises `UsageError` or `BadInputError` where something is missing or cannot be used.
    """
    if source.trace is not None:
        return _replayed(source.trace, max_tokens, tokenizer, seed, warmup)
    if source.prompts is not None:
        return Requests(unrepeated(from_file(source.prompts, max_tokens)))
    if source.prompt_tokens is not None:
        lengths = Lengths.parse(source.prompt_tokens)
        if tokenizer is None:
            raise UsageError(
                "--prompt-tokens needs the model's tokenizer: add --tokenizer PATH, a "
                "tokenizer.json or the directory of a checkpoint"
            )
        maker = PromptMaker(tokenizer, seed)
        return Requests(maker.lengths(lengths, max_tokens, source.shared_prefix))
    return Requests(_built_in(seed, max_tokens))


def _built_in(seed: int, max_tokens: int) -> Iterator[Work]:
    """Questions in the format that `tiny` was trained on, none of them twice."""
    seen: set[str] = set()
    for batch in itertools.count():
        for prompt in text.prompts((seed << 20) + batch, _BATCH, turns=_TURNS):
            if prompt.text not in seen:
                seen.add(prompt.text)
                yield Work(prompt.text, max_tokens)


def _replayed(
    path: Path, max_tokens: int, tokenizer: LoadedTokenizer | None, seed: int, warmup: int
) -> Requests:
    conversations = read_trace(path, max_tokens)
    measured_only = any(turn.prompt is None for each in conversations for turn in each.turns)
    maker = PromptMaker(tokenizer, seed) if measured_only and tokenizer else None
    warm = itertools.repeat(Work(_WARM_UP, max_tokens), warmup)
    replayed = [work_of(each, maker) for each in conversations]
    return Requests(itertools.chain(warm, replayed), tuple(each.due_s for each in conversations))
