"""Read files that somebody else made (see `runtime/untrusted.py`), with our own errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from ..runtime import untrusted
from .errors import BadInputError


def open_inside(path: Path) -> BufferedReader:
    """As `untrusted.open_inside`, but raises `BadInputError`."""
    with _bad_input():
        return untrusted.open_inside(path)


def require_links_inside(
    directory: Path, needed: Callable[[str], bool] = lambda name: True
) -> None:
    """As `untrusted.require_links_inside`, but raises `BadInputError`."""
    with _bad_input():
        untrusted.require_links_inside(directory, needed)


def read_json(path: Path) -> dict[str, Any]:
    """As `untrusted.read_json`, but raises `BadInputError`."""
    with _bad_input():
        return untrusted.read_json(path)


@contextmanager
def _bad_input() -> Iterator[None]:
    try:
        yield
    except untrusted.UntrustedError as error:
        raise BadInputError(str(error)) from error
