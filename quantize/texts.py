"""Text for calibration and for measuring quality: read, rendered and tokenized. Needs no torch."""

from __future__ import annotations

import filecmp
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..core.errors import BadInputError
from ..model.catalog import CALIBRATION_TEXT, TINY, text
from ..model.checkpoint import Checkpoint
from ..model.tokenizer import TOKENIZER_NAME, encode
from ..runtime.templates import ChatTemplate, TemplateError
from ..runtime.untrusted import brief
from .conversations import TextError, conversation, tools_of
from .text_rows import Row, read_rows

TINY_SAMPLES: Final = 64
"""Generated texts for the embedded checkpoint."""

MAX_TOKENS: Final = 512
"""Longest sequence, as in ModelOpt's own default."""

MAX_TEXTS: Final = 1024
"""Most texts of a file; ModelOpt uses 512 by default. The activations of all are kept at once."""

MAX_CHARACTERS: Final = 64 * MAX_TOKENS
"""Where a text is cut before it is tokenized: no ordinary text has so many characters a token."""

_CHATS: Final = ("messages", "conversations", "conversation")

_TEXTS: Final = {
    "prompt": ("completion", "response", "output", "chosen"),
    "text": (),
    "instruction": ("input", "output", "response"),
    "input": ("output",),
    "question": ("answer", "response"),
    "problem": ("generated_solution", "solution", "answer"),
    "query": ("response", "answer"),
    "content": (),
    "article": (),
    "chosen": (),
}
"""Keys of a row's text, first match wins, and of what continues it. ModelOpt's keys come first, in
its order and with its continuations, so that both take the same text from a row."""


def read_sequences(
    checkpoint: Checkpoint, file: Path | None, split: text.Split = "train"
) -> tuple[str, list[list[int]]]:
    """Where the text is from, and the token ids of `file`'s texts or of the built-in ones: of those
    that the embedded checkpoint was trained on where the tokenizer is its own, and otherwise of the
    set for real models.

    Sequences are cut at `MAX_TOKENS`. Raises as `calibrate`.
    """
    with ChatTemplate(checkpoint.path) as template:
        if file:
            source, texts = read_texts(file, template)
        elif has_tiny_tokenizer(checkpoint.path):
            source = f"built-in: {TINY_SAMPLES} generated sequences, {split}, seed 0"
            texts = list(text.documents(0, TINY_SAMPLES, split=split))
        else:
            source, texts = built_in_texts(template, split)
    encoded = encode(checkpoint.path / TOKENIZER_NAME, texts, MAX_TOKENS)
    return source, [ids for ids in encoded if ids]


def read_texts(file: Path, template: ChatTemplate) -> tuple[str, list[str]]:
    """What is used of a file of rows (see `text_rows`), in words, and its texts.

    Conversations go through the checkpoint's chat template. A text is cut at `MAX_CHARACTERS`, and
    at most `MAX_TEXTS` are read. Raises `BadInputError` naming file and line.
    """
    texts: list[str] = []
    empty, notes = 0, []
    for row in read_rows(file):
        if len(texts) == MAX_TEXTS:
            notes.append(f"only its first {MAX_TEXTS:,} texts")
            break
        try:
            found = _text_of(row.fields, template)
            found.encode()
        except UnicodeEncodeError as error:
            half = ascii(found[error.start])
            raise BadInputError(f"{row.where}: has half a surrogate pair, {half}") from error
        except (TextError, TemplateError) as error:
            raise BadInputError(f"{row.where}: {error}") from error
        if found.strip():
            texts.append(found)
        else:
            empty += 1
    if empty:
        notes.insert(0, f"{empty:,} empty {'row' if empty == 1 else 'rows'} skipped")
    if not texts:
        raise BadInputError(f"{file}: has no text in it{_in_brackets(notes)}")
    return f"{file}{_in_brackets(notes)}", texts


def built_in_texts(template: ChatTemplate, split: text.Split) -> tuple[str, list[str]]:
    """What is used of the set for real models, in words, and its texts.

    Chats are left out where the checkpoint has no chat template, as a base model, or where its
    template refuses them.
    """
    texts, kinds, refused = [], Counter[str](), list[str]()
    for row in read_rows(CALIBRATION_TEXT):
        if row.fields["split"] != split:
            continue
        try:
            texts.append(_text_of(row.fields, template))
            kinds[row.fields["kind"]] += 1
        except TemplateError as error:
            refused.append(str(error))
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    source = f"built-in set for real models ({counts}), {split}"
    if refused:
        source += f"; {len(refused)} chats were left out ({refused[0]})"
    return source, texts


def has_tiny_tokenizer(checkpoint: Path) -> bool:
    """Whether the tokenizer in a directory is the embedded checkpoint's."""
    tokenizer = checkpoint / TOKENIZER_NAME
    return tokenizer.is_file() and filecmp.cmp(tokenizer, TINY / TOKENIZER_NAME, shallow=False)


def require_row(file: Path) -> None:
    """Raise `BadInputError` unless `file` begins with a row. Needs no checkpoint."""
    row: Row | None = next(read_rows(file), None)
    if row is None:
        raise BadInputError(f"{file}: has no text in it")


def _in_brackets(notes: list[str]) -> str:
    return f" ({', '.join(notes)})" if notes else ""


def _text_of(fields: Mapping[str, Any], template: ChatTemplate) -> str:
    """The text of a row, empty where its keys hold none. Raises `TextError`, `TemplateError`."""
    present = {key: value for key, value in fields.items() if not _is_absent(value)}
    for key in _CHATS:
        if key in present:
            return _rendered(present, key, present[key], template)
    for key, continuations in _TEXTS.items():
        if key in present:
            parts = [present[name] for name in (key, *continuations) if name in present]
            if any(isinstance(part, list) for part in parts):
                return _rendered(present, key, _joined(parts), template)
            return "\n".join(_plain(key, part) for part in parts)[:MAX_CHARACTERS]
    if fields.keys() & {*_CHATS, *_TEXTS} or not fields:
        return ""
    if "input_ids" in fields:
        raise TextError("holds token ids (`input_ids`) of some tokenizer; give their text instead")
    keys = ", ".join(f"`{brief(key)}`" for key in list(fields)[:8])
    raise TextError(f"needs `text`, `prompt` or `messages`, but has {keys}")


def _is_absent(value: object) -> bool:
    """Whether a key holds nothing. pandas writes what is missing as NaN."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def _plain(key: str, part: object) -> str:
    if isinstance(part, bool | dict):
        raise TextError(f"`{key}` must be text or a list of messages")
    return str(part)


def _joined(parts: list[Any]) -> list[Any]:
    """One conversation of a prompt and its answer, either as text or as messages."""
    messages: list[Any] = []
    for part in parts:
        if isinstance(part, str):
            messages.append({"role": "assistant" if messages else "user", "content": part})
        elif isinstance(part, list):
            # Preference data repeats the prompt in the answer.
            continues = isinstance(part[0], dict) and part[0].get("role") == "assistant"
            messages = [*messages, *part] if continues else part
    return messages


def _rendered(fields: Mapping[str, Any], key: str, messages: object, template: ChatTemplate) -> str:
    try:
        turns = conversation(messages, MAX_CHARACTERS)
    except TextError as error:
        raise TextError(f"`{key}`: {error}") from error
    system = fields.get("system")
    if isinstance(system, str) and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    return template.apply_chat_template(turns, tools=tools_of(fields), longest=MAX_CHARACTERS)
