"""Standard output and standard error of this process, made to accept whatever a command writes.

A terminal whose encoding lacks a character, a closed standard error or a full disk behind it must
not end work that takes hours.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

PLAIN: Final = "nemo-deploy-plain"
"""Name of the error handler that writes similar ASCII characters."""

_SIMILAR: Final = {
    **dict.fromkeys("·•", "-"), **dict.fromkeys("█▇▆▅▄▃▂▁■", "#"), **dict.fromkeys("✓✔", "+"),
    **dict.fromkeys("✗✘×", "x"), **dict.fromkeys("–—−━╸╺─", "-"), **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("‘’", "'"), **dict.fromkeys("“”", '"'), **dict.fromkeys("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "*"),
    "…": ".", "★": "*", "→": ">", "≥": ">", "≤": "<", "≈": "~", "µ": "u", "\N{NO-BREAK SPACE}": " ",
    **{raised: str(digit) for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}  # fmt: skip
"""One character for one, so that columns stay where they are."""


class _Output(io.FileIO):
    """A file descriptor whose first failure names it. What is written afterwards is dropped, so
    that the interpreter ends quietly."""

    failed = False

    def write(self, data: Buffer) -> int:
        if self.failed:
            return len(memoryview(data))
        try:
            return super().write(data)
        except OSError as error:
            self.failed = True
            raise OSError(error.errno, error.strerror, "standard output") from error


class _Errors(io.FileIO):
    """A file descriptor that drops what it cannot write: messages and progress are no results."""

    def write(self, data: Buffer) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(memoryview(data))


def prepare_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr` by streams that never fail for a character, and for
    standard error not at all. Closed ones lead nowhere."""
    codecs.register_error(PLAIN, _similar)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # the next file that is opened would get this number
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout, every_line=False)
    sys.stderr = _text(_Errors(2, "w", closefd=False), sys.stderr, every_line=True)


def _text(raw: io.FileIO, old: TextIO | None, every_line: bool) -> io.TextIOWrapper:
    """A text stream to `raw` in the encoding of `old`, which is None where it was closed."""
    if old is not None:
        old.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=old.encoding if old else "utf-8",
        errors=PLAIN,
        line_buffering=every_line or raw.isatty(),
    )


def _similar(error: UnicodeError) -> tuple[str, int]:
    """Characters similar to those that `error` is about. A `?` stands for others, and for bytes of
    file names that are no text."""
    assert isinstance(error, UnicodeEncodeError), "registered for encoding"
    text = error.object[error.start : error.end]
    return "".join(_SIMILAR.get(character, "?") for character in text), error.end
