"""Counts the bytes that huggingface_hub downloads, in place of the bar that it would draw."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ClassVar, Self


class StoppedError(Exception):
    """A download was stopped from outside."""


class Tally:
    """The bytes of one download so far. `on_bytes` takes each change, up or down."""

    def __init__(
        self, on_bytes: Callable[[int], None] | None, stop: threading.Event | None
    ) -> None:
        self._on_bytes, self._stop, self._count = on_bytes, stop, 0

    def add(self, count: int) -> None:
        """Count `count` bytes. Raises `StoppedError` once the download is to stop."""
        if self._stop is not None and self._stop.is_set():
            raise StoppedError
        self._count += count
        if self._on_bytes is not None:
            self._on_bytes(count)

    def take_back(self) -> None:
        """Set the count back to zero: the attempt failed, and its bytes are lost."""
        if self._on_bytes is not None:
            self._on_bytes(-self._count)
        self._count = 0

    def bar_class(self) -> type[Bar]:
        """The `tqdm_class` for this download."""
        return type("Bar", (Bar,), {"tally": self})


class Bar:
    """The part of tqdm's interface that huggingface_hub 1.x uses (utils/tqdm.py, file_download.py,
    utils/_xet_progress_reporting.py), drawing nothing."""

    tally: ClassVar[Tally]

    def __init__(self, *_: object, total: int | None = None, **__: object) -> None:
        self.n, self.total = 0, total

    def update(self, count: float = 1) -> None:
        """Count bytes of the file."""
        self.n += int(count)
        self.tally.add(int(count))

    def update_transfer(self, count: float) -> None:
        """Bytes on the wire are not counted: with compression they are fewer."""

    def set_postfix_str(self, *_: object, **__: object) -> None:
        """Nothing is drawn."""

    set_transfer_postfix_str = set_postfix_str
    refresh = close = set_postfix_str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None
