"""The texts of golden outputs: prompts, and a continuation of each that is fed in.

They are held-out text of the built-in sets: for real models prose, mathematics, code, languages and
chats in the model's own format, for the embedded one what it was trained on. Text that a model
would never continue that way would only add noise: where nothing is likely, a healthy server of
another precision differs most.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from ..core.errors import BadInputError
from ..model.catalog import text
from ..model.tokenizer import TOKENIZER_NAME, encode
from ..runtime.golden import Entry, Forced, Recording
from ..runtime.templates import ChatTemplate
from .texts import built_in_texts, has_tiny_tokenizer

PROMPTS: Final = 16

FORCED_TOKENS: Final = 32
"""Length of a continuation."""

LONGEST_PROMPT: Final = 1024

_PROMPT_DOCUMENTS: Final = 2
_FORCED_DOCUMENTS: Final = 6
"""Texts of the embedded model that are joined to a prompt, and to a continuation."""

_PROMPT_CHARACTERS: Final = 320
_FORCED_CHARACTERS: Final = 8 * FORCED_TOKENS
"""The same of other models: so much of the end of a text, where a chat has its last answer."""


def cases(checkpoint: Path) -> list[tuple[str, Forced]]:
    """Every prompt as text, and its tokens and those of the continuation by the tokenizer of the
    directory `checkpoint`. Raises `BadInputError` for a tokenizer that cannot be used."""
    pairs = _generated() if has_tiny_tokenizer(checkpoint) else _built_in(checkpoint)
    prompts = _encoded(checkpoint, [prompt for prompt, _ in pairs])
    wholes = _encoded(checkpoint, [prompt + rest for prompt, rest in pairs])
    found = []
    for (prompt, _), ids, whole in zip(pairs, prompts, wholes, strict=True):
        forced = whole[len(ids) : len(ids) + FORCED_TOKENS]
        if not ids or not forced:
            raise BadInputError(
                f"{checkpoint / TOKENIZER_NAME}: gives no token for ordinary text such as "
                f"{prompt[:40]!r}"
            )
        found.append((prompt, Forced(ids, forced)))
    return found


def not_recorded(checkpoint: Path, digest: str, why: str) -> Recording:
    """The statement that there are no golden outputs of `checkpoint`, whose weights `digest` tells
    from others. Prompts and tokens are there: with them a node can tell whether its server changes.
    Needs no torch."""
    entries = tuple(Entry(text, case, ()) for text, case in cases(checkpoint))
    return Recording("not_recorded", digest, "", entries, note=why)


def _generated() -> list[tuple[str, str]]:
    """Prompts and continuations of the text that the embedded model was trained on."""
    count = PROMPTS * (_PROMPT_DOCUMENTS + _FORCED_DOCUMENTS)
    documents = text.documents(0, count, split="heldout")
    return [
        (
            "".join(islice(documents, _PROMPT_DOCUMENTS)),
            "".join(islice(documents, _FORCED_DOCUMENTS)),
        )
        for _ in range(PROMPTS)
    ]


def _built_in(checkpoint: Path) -> list[tuple[str, str]]:
    """Prompts and continuations of the set for real models, of as many kinds as there are."""
    with ChatTemplate(checkpoint) as template:
        _, texts = built_in_texts(template, "heldout")
    step = len(texts) / PROMPTS
    return [_divided(texts[int(number * step)]) for number in range(PROMPTS)]


def _divided(whole: str) -> tuple[str, str]:
    """The end of a text in two, cut before words."""
    start = _word(whole, len(whole) - _PROMPT_CHARACTERS - _FORCED_CHARACTERS)
    cut = _word(whole, len(whole) - _FORCED_CHARACTERS)
    return whole[start:cut].lstrip(), whole[cut:]


def _word(whole: str, place: int) -> int:
    """Where the first word from `place` on begins, with the space before it."""
    space = whole.find(" ", max(place, 0), place + _FORCED_CHARACTERS // 2)
    return space if space >= 0 else max(place, 0)


def _encoded(checkpoint: Path, texts: Sequence[str]) -> list[tuple[int, ...]]:
    path = checkpoint / TOKENIZER_NAME
    return [tuple(ids) for ids in encode(path, texts, LONGEST_PROMPT + FORCED_TOKENS)]
