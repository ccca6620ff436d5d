"""Text for calibration and for measuring quality: read, rendered and tokenized. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..core.errors import BadInputError
from ..model.catalog import text
from ..model.checkpoint import Checkpoint
from ..model.tokenizer import TOKENIZER_NAME, encode
from ..runtime.templates import ChatTemplate, TemplateError
from ..runtime.untrusted import parse_json

BUILT_IN_SAMPLES: Final = 64
MAX_TOKENS: Final = 512
"""Longest sequence, as in ModelOpt's own default."""


def read_sequences(
    checkpoint: Checkpoint, file: Path | None, split: text.Split = "train"
) -> tuple[str, list[list[int]]]:
    """Where the text is from, and the token ids of `file`'s texts or of the built-in ones.

    Sequences are cut at `MAX_TOKENS`. Raises as `calibrate`.
    """
    with ChatTemplate(checkpoint.path) as template:
        if file:
            source, texts = str(file), read_texts(file, template)
        else:
            source = f"built-in: {BUILT_IN_SAMPLES} generated sequences, {split}, seed 0"
            texts = list(text.documents(0, BUILT_IN_SAMPLES, split=split))
    encoded = encode(checkpoint.path / TOKENIZER_NAME, texts, MAX_TOKENS)
    return source, [ids for ids in encoded if ids]


def read_texts(file: Path, template: ChatTemplate) -> list[str]:
    """Calibration texts of a JSON-lines file: each line has `text`, `prompt` or `messages`.

    `messages` go through the checkpoint's chat template. Raises `BadInputError` naming the line.
    """
    texts = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            texts.append(_text_of(line, f"{file}, line {number}", template))
    if not texts:
        raise BadInputError(f"{file}: contains no calibration text")
    return texts


def _text_of(line: str, where: str, template: ChatTemplate) -> str:
    try:
        row = parse_json(line.encode())
    except ValueError as error:
        raise BadInputError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadInputError(f"{where}: is not a JSON object")
    for key in ("text", "prompt"):
        if isinstance(row.get(key), str) and row[key]:
            return str(row[key])
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadInputError(f"{where}: needs `text`, `prompt` or `messages`")
    try:
        return template.apply_chat_template(messages)
    except TemplateError as error:
        raise BadInputError(f"{where}: {error}") from error
