"""The texts of golden outputs: prompts, and a continuation of each that is fed in.

They are calibration text of the held-out split: chats in the model's own format. Free text that the
model would never continue that way would only add noise: where nothing is likely, a healthy server
of another precision differs most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from ..core.errors import BadInputError
from ..model.catalog import text
from ..model.tokenizer import TOKENIZER_NAME, encode
from ..runtime.golden import Entry, Forced, Recording

PROMPTS: Final = 16

FORCED_TOKENS: Final = 32
"""Length of a continuation."""

LONGEST_PROMPT: Final = 1024

_PROMPT_DOCUMENTS: Final = 2
_FORCED_DOCUMENTS: Final = 6
"""Calibration texts that are joined to a prompt, and to a continuation of enough tokens."""


def cases(checkpoint: Path) -> list[tuple[str, Forced]]:
    """Every prompt as text, and its tokens and those of the continuation by the tokenizer of the
    directory `checkpoint`. Raises `BadInputError` for a tokenizer that cannot be used."""
    pairs = list(_texts())
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


def _texts() -> Iterator[tuple[str, str]]:
    count = PROMPTS * (_PROMPT_DOCUMENTS + _FORCED_DOCUMENTS)
    documents = text.documents(0, count, split="heldout")
    for _ in range(PROMPTS):
        yield (
            "".join(islice(documents, _PROMPT_DOCUMENTS)),
            "".join(islice(documents, _FORCED_DOCUMENTS)),
        )


def _encoded(checkpoint: Path, texts: Sequence[str]) -> list[tuple[int, ...]]:
    path = checkpoint / TOKENIZER_NAME
    return [tuple(ids) for ids in encode(path, texts, LONGEST_PROMPT + FORCED_TOKENS)]
