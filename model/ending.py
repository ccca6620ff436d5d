"""Which tokens end an answer. Servers stop at those that `generation_config.json` names; where it
names none, they would go on up to the length limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..core.untrusted import read_json
from .tokenizer import TOKENIZER_NAME, token_id

GENERATION: Final = "generation_config.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class EndTokens:
    """The end-of-sequence tokens of a checkpoint. `completed` is what its `generation_config.json`
    must become to name them, None where it does; `warning` says so in a sentence."""

    ids: tuple[int, ...]
    completed: Mapping[str, Any] | None = None
    warning: str | None = None


def end_tokens(folder: Path, config: Mapping[str, Any]) -> EndTokens:
    """Those of the checkpoint in `folder` whose `config.json` is `config`: the ones of
    `generation_config.json` or, where it is missing or names none, those of `config` and of the
    tokenizer. In this family the two differ: one ends a text, the other a turn of a chat.

    Raises `BadInputError` for a file that cannot be read.
    """
    path = folder / GENERATION
    generation = read_json(path) if path.is_file() else {}
    if ids := _ids(generation.get("eos_token_id")):
        return EndTokens(ids)
    missing = f"{GENERATION} names no end-of-sequence token" if generation else f"no {GENERATION}"
    ids = tuple(sorted({*_ids(config.get("eos_token_id")), *_of_tokenizer(folder)}))
    if not ids:
        return EndTokens(
            (),
            warning=f"{missing}, and neither do config.json and the tokenizer: a server stops at "
            "its length limit only. Add `eos_token_id` to it",
        )
    named = list(ids) if len(ids) > 1 else ids[0]
    return EndTokens(
        ids,
        {**generation, "eos_token_id": named},
        f"{missing}, so that a server might never stop. The output's names "
        f"{' and '.join(map(str, ids))}, of config.json and the tokenizer",
    )


def _ids(value: object) -> tuple[int, ...]:
    """Token ids as configurations have them, one or a list; empty for anything else."""
    values = value if isinstance(value, list) else [value]
    numbers = [number for number in values if isinstance(number, int) and number is not True]
    return tuple(numbers) if len(numbers) == len(values) else ()


def _of_tokenizer(folder: Path) -> tuple[int, ...]:
    """The id of the token that the tokenizer's configuration calls the end of a sequence."""
    path, tokenizer = folder / TOKENIZER_CONFIG, folder / TOKENIZER_NAME
    if not path.is_file() or not tokenizer.is_file():
        return ()
    token = read_json(path).get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    number = token_id(tokenizer, text) if isinstance(text, str) and text else None
    return () if number is None else (number,)
