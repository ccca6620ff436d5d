"""Checks of what long work will need, made before the first large file is fetched or read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ..core.errors import BadInputError, UsageError
from ..core.extras import require
from ..model.tokenizer import TOKENIZER_NAME, check_tokenizer
from ..quantize.texts import read_texts
from ..runtime.templates import ChatTemplate
from ..runtime.untrusted import parse_json
from ..sources.checkpoint_source import Source

DEVICES: Final = ("auto", "cpu", "cuda")


def require_device(name: str) -> None:
    """Raise `UsageError` for an unknown `--device`, `BadInputError` for one that is not here."""
    if name not in DEVICES:
        raise UsageError(f"unknown --device {name!r}; known are {', '.join(DEVICES)}")
    if name == "cuda":
        require("torch", purpose="--device cuda")
        from ..quantize.calibrate import device_named

        device_named(name)


def require_readable(*files: Path | None) -> None:
    """Raise `BadInputError` for a text file of the user's (None: none given) that cannot be read or
    has no line that is JSON. Whether every line can be used is known once the checkpoint is."""
    for file in files:
        if file is not None:
            _require_one_line(file)


def _require_one_line(file: Path) -> None:
    if not file.is_file():
        raise BadInputError(f"{file}: there is no such text file")
    try:
        with file.open(encoding="utf-8") as lines:
            first = next((line for line in lines if line.strip()), None)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file}: cannot be read: {error}") from error
    if first is None:
        raise BadInputError(f"{file}: has no text in it")
    try:
        parse_json(first.encode())
    except ValueError as error:
        raise BadInputError(f"{file}: its first line is not JSON: {error}") from error


def require_text(source: Source, files: Iterable[Path | None]) -> None:
    """Check that the tokenizer of `source` can be used, and that each of `files` can be read and
    rendered with its chat template. From a repository of the hub, tokenizer and template are
    fetched for that; its weights are not.

    Raises `BadInputError`.
    """
    if source.snapshot is not None:
        from ..hub.fetch import fetch_companions

        fetch_companions(source.snapshot)
    folder = source.opened.path
    check_tokenizer(folder / TOKENIZER_NAME, source.model.vocab_size)
    with ChatTemplate(folder) as template:
        for file in files:
            if file is not None:
                read_texts(file, template)
