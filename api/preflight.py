"""Checks of what long work will need, made before the first large file is fetched or read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ..core.errors import UsageError
from ..core.extras import require
from ..model.tokenizer import TOKENIZER_NAME, check_tokenizer
from ..quantize.texts import read_texts, require_row
from ..runtime.templates import ChatTemplate
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
    has no row. Whether every row can be used is known once the checkpoint is."""
    for file in files:
        if file is not None:
            require_row(file)


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
