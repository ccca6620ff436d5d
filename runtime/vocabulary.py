"""A checkpoint's tokenizer, end tokens and recommended sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .answers import MARKERS
from .errors import StartError
from .generation import GenerationRequest
from .golden import Tokens
from .text import TokenizerDetokenizer
from .untrusted import UntrustedError, read_json


class CheckpointVocabulary:
    """The tokenizer of the checkpoint directory `checkpoint`, and the tokens that end an answer.

    Special tokens have no text, except the markers of reasoning and tool calls, which the text
    stage has to see: whether a tokenizer flags those as special makes no difference. Raises
    `StartError` for files that cannot be used.
    """

    def __init__(self, checkpoint: Path) -> None:
        from tokenizers import Tokenizer

        path = checkpoint / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
            self._plain = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more exact
            raise StartError(f"{path}: cannot be used as a tokenizer: {error}") from error
        for tokenizer in (self._tokenizer, self._plain):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self._plain.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder()
        special = {
            number: str(token.content)
            for number, token in added.items()
            if token.special and token.content not in MARKERS
        }
        self.markers = frozenset(MARKERS) & {str(token.content) for token in added.values()}
        """The markers of reasoning and tool calls that are tokens of their own."""
        self.control_texts = tuple(special.values())
        """Texts that stand for control tokens, which no client may write into a prompt."""
        self._silent = frozenset(special)
        self._ends = _end_tokens(checkpoint)

    @property
    def end_tokens(self) -> frozenset[int]:
        return self._ends

    @property
    def size(self) -> int:
        """Token numbers are below this."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer, in the form of `tokenizer.json`."""
        return str(self._tokenizer.to_str())

    def detokenizer(self) -> TokenizerDetokenizer:
        """A detokenizer for one answer."""
        return TokenizerDetokenizer(self._tokenizer, self._silent)

    def token_text(self, token: int) -> str:
        """One token as text, also a control token; with U+FFFD for a part of a character."""
        return self.decode((token,))

    def decode(self, tokens: Tokens) -> str:
        """The text of tokens, control tokens included."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def encode(
        self, text: str, *, whole: bool = True, control: bool = True, most: int | None = None
    ) -> Tokens:
        """The tokens of a text. `whole` adds what the tokenizer puts around a whole prompt. Without
        `control`, texts of control tokens are encoded like any other text.

        Raises `TooManyTokensError` for more than `most`, before they are made numbers of Python,
        which would keep other threads waiting. Releases the interpreter's lock, so that other
        threads continue.
        """
        tokenizer = self._tokenizer if control else self._plain
        (encoding,) = tokenizer.encode_batch_fast([text], add_special_tokens=whole)
        if most is not None and len(encoding) > most:
            raise TooManyTokensError(len(encoding))
        return tuple(encoding.ids)


class TooManyTokensError(ValueError):
    """A text has more tokens than are possible: `count`."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} tokens")
        self.count = count


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What `generation_config.json` recommends; `sample` is false where it says nothing, or that
    the most likely token is taken."""

    sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def applied(self, request: GenerationRequest) -> GenerationRequest:
        """`request` with the defaults for what it does not say."""
        if not self.sample:
            return request
        return replace(
            request,
            temperature=self.temperature if request.temperature is None else request.temperature,
            top_k=self.top_k if request.top_k is None else request.top_k,
            top_p=self.top_p if request.top_p is None else request.top_p,
        )


def read_sampling_defaults(checkpoint: Path) -> SamplingDefaults:
    """The defaults of a checkpoint. Raises `StartError` for a value that is no number in range."""
    config = _optional_json(checkpoint / "generation_config.json")
    numbers: dict[str, float | None] = {}
    for name, most in (("temperature", 100.0), ("top_k", 2**31), ("top_p", 1.0)):
        value = config.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value <= most):
            raise StartError(
                f"{checkpoint / 'generation_config.json'}: {name} is {value!r}; it must be a "
                f"number from 0 to {most:g}"
            )
        numbers[name] = value
    given = any(value is not None for value in numbers.values())
    top_k, top_p = numbers["top_k"], numbers["top_p"]
    return SamplingDefaults(
        sample=bool(config.get("do_sample", given)),
        temperature=numbers["temperature"] if numbers["temperature"] is not None else 1.0,
        top_k=None if top_k is None else int(top_k),
        top_p=top_p or None,
    )


def _end_tokens(checkpoint: Path) -> frozenset[int]:
    """`eos_token_id` of `generation_config.json`, or else of `config.json`: a number or several."""
    for name in ("generation_config.json", "config.json"):
        ends = _optional_json(checkpoint / name).get("eos_token_id")
        numbers = ends if isinstance(ends, list) else [ends]
        if ends is not None and all(isinstance(end, int) for end in numbers):
            return frozenset(numbers)
        if ends is not None:
            raise StartError(
                f"{checkpoint / name}: eos_token_id must be a number or a list of them"
            )
    return frozenset()


def _optional_json(path: Path) -> Mapping[str, Any]:
    try:
        return read_json(path) if path.is_file() else {}
    except UntrustedError as error:
        raise StartError(str(error)) from error


def context_length(checkpoint: Path) -> int:
    """`max_position_embeddings` of a checkpoint. Raises `StartError`."""
    length = _optional_json(checkpoint / "config.json").get("max_position_embeddings")
    if not isinstance(length, int) or length < 1:
        raise StartError(
            f"{checkpoint / 'config.json'}: max_position_embeddings must be a number above 0"
        )
    return length
