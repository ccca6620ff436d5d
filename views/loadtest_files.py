"""Reports of load tests as files. A file's suffix says what it holds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ..core.errors import BadInputError, UsageError
from ..core.files import write_atomically
from ..core.html import today
from ..loadtest.documents import LoadTestDocument
from ..loadtest.saved_report import typed
from .loadtest_page import load_test_page
from .loadtest_tables import csv_text, prometheus_text

_FORMATS: Final[Mapping[str, Callable[[LoadTestDocument], str]]] = {
    ".html": lambda document: load_test_page(document, today()),
    ".csv": csv_text,
    ".prom": prometheus_text,
}
_JSON: Final = ".json"
SUFFIXES: Final = (_JSON, *_FORMATS)


def require_writable(paths: Sequence[Path]) -> None:
    """Refuse files that `save` could not write, before a long test begins.

    Raises `UsageError` for a suffix that names no format and for a file that is given twice,
    `BadInputError` for a directory that does not exist or may not be written to.
    """
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(
                f"--save {path}: the suffix names the format; write one of {', '.join(SUFFIXES)}"
            )
        if paths.count(path) > 1:
            raise UsageError(f"--save {path}: is given twice")
        if path.is_dir():
            raise BadInputError(f"{path}: is a directory; name a file in it")
        if not path.parent.is_dir():
            raise BadInputError(f"{path}: there is no directory {path.parent}; create it first")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise BadInputError(f"{path}: cannot be written: its directory is read-only")


def save(paths: Sequence[Path], document: Mapping[str, Any]) -> None:
    """Write a report's `document` to each of `paths`, each of them wholly or not at all.

    Raises `BadInputError` for one that cannot be written.
    """
    for path in paths:
        maker = _FORMATS.get(path.suffix.lower())
        text = json.dumps(document, indent=2) + "\n" if maker is None else maker(typed(document))
        write_atomically(path, text.encode())
