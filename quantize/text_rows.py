"""Read the rows of a user's text file: JSON lines, or one JSON document of several lines.

Files are UTF-8, UTF-16 or UTF-32, and may be compressed with gzip, bzip2 or xz. The longest line
determines the memory, and its length is limited.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

from ..core.errors import BadInputError
from ..runtime.untrusted import require_shallow, unique_keys

MAX_CHARACTERS: Final = 64_000_000
"""Longest line, and longest document that is not JSON lines."""

MAX_VALUES: Final = 5_000_000
"""Most values in one line or document; as Python objects they stay below 400 MB."""

_HEAD: Final = 4096

_COMPRESSED: Final[dict[bytes, Callable[[Path, str], Any]]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}

_ENCODINGS: Final = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
"""By byte-order mark; the longer marks come first."""

_UNSUPPORTED: Final = {
    b"par1": (
        "is a Parquet file; write its rows as JSON lines, for example with pandas: "
        "pandas.read_parquet(FILE).to_json(OUT, orient='records', lines=True)"
    ),
    b"arrow1": "is an Arrow file; write its rows as JSON lines",
    b"pk\x03\x04": "is a ZIP archive or a spreadsheet; unpack or export it as JSON lines",
    b"\x28\xb5\x2f\xfd": "is compressed with Zstandard; unpack it with zstd -d",
    b"version https://git-lfs": "is a pointer of git-lfs, not the file; fetch it with git lfs pull",
    b"<!doctype html": "is an HTML page; download the file itself",
    b"<html": "is an HTML page; download the file itself",
    b"%pdf": "is a PDF file; extract its text and write it as JSON lines",
    b"\x89hdf": "is an HDF5 file; write its rows as JSON lines",
}
"""By how a file begins, in lower case."""

_BLANK: Final = " \t\r\n\ufeff"
"""White space of JSON, and the byte-order mark: joined files have one inside, too."""

_BETWEEN: Final = re.compile(rf"[{_BLANK},]*")


class Row(NamedTuple):
    """One JSON object of a file, and `FILE, line N`, where it begins."""

    where: str
    fields: dict[str, Any]


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of `file`, read as they are needed. Blank lines are skipped.

    Raises `BadInputError` for a file that is missing, of another kind or damaged, and for a line
    that is no JSON object.
    """
    if not file.is_file():
        raise BadInputError(f"{file}: there is no such text file")
    try:
        with _decompressed(file) as raw:
            yield from _rows(file, _decoded(file, raw))
    except (OSError, EOFError, zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
        raise BadInputError(f"{file}: cannot be read: {error}") from error


def _decompressed(file: Path) -> BinaryIO:
    with file.open("rb") as raw:
        head = raw.read(_HEAD)
    for mark, message in _UNSUPPORTED.items():
        if head.lower().startswith(mark):
            raise BadInputError(f"{file}: {message}")
    for mark, opened in _COMPRESSED.items():
        if head.startswith(mark):
            return cast(BinaryIO, opened(file, "rb"))
    return file.open("rb")


def _decoded(file: Path, raw: BinaryIO) -> TextIOWrapper:
    head = raw.read(_HEAD)
    raw.seek(0)
    for mark, encoding in _ENCODINGS.items():
        if head.startswith(mark):
            return TextIOWrapper(raw, encoding, newline="\n")
    if b"\x00" in head:
        raise BadInputError(
            f"{file}: contains NUL bytes, so it is a binary file or UTF-16 without a byte-order "
            "mark; write it as JSON lines in UTF-8"
        )
    # Bytes that are not UTF-8 become surrogates, so that the error can name their line.
    return TextIOWrapper(raw, "utf-8", errors="surrogateescape", newline="\n")


def _rows(file: Path, stream: TextIOWrapper) -> Iterator[Row]:
    lines = _lines(file, stream)
    first = next(lines, None)
    if first is None:
        return
    number, line = first
    if line[0] == "[" or (line[0] == "{" and line[-1] in "{[,"):
        rest = stream.read(MAX_CHARACTERS)
        if len(line) + len(rest) > MAX_CHARACTERS:
            raise BadInputError(
                f"{file}: is one JSON document of over {MAX_CHARACTERS:,} characters; write it as "
                f"JSON lines, for example with jq -c '.[]' {file}"
            )
        yield from _document(file, number, f"{line}\n{rest}".rstrip(_BLANK))
        return
    for number, line in chain((first,), lines):
        where = f"{file}, line {number}"
        _require_moderate(file, number, line)
        try:
            value = json.loads(line, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            raise BadInputError(_not_json(where, line, error)) from error
        yield _row(where, value)


def _lines(file: Path, stream: TextIOWrapper) -> Iterator[tuple[int, str]]:
    """Number and content of each line that is not blank. A line ends at LF only: strings of JSON
    may contain U+2028, U+0085 and other separators."""
    for number in count(1):
        line = stream.readline(MAX_CHARACTERS + 1)
        if not line:
            return
        if len(line) > MAX_CHARACTERS:
            raise BadInputError(
                f"{file}, line {number}: is longer than {MAX_CHARACTERS:,} characters; split it"
            )
        if stripped := line.strip(_BLANK):
            yield number, stripped


def _document(file: Path, number: int, text: str) -> Iterator[Row]:
    """The rows of a JSON array, or of objects that follow each other. `text` begins on line
    `number`."""
    _require_moderate(file, number, text)
    decoder = json.JSONDecoder(object_pairs_hook=unique_keys)
    is_open = text[0] == "["
    position, end = int(is_open), 0
    first = number
    while True:
        between = _BETWEEN.match(text, position)
        assert between is not None
        position = between.end()
        if position == len(text):
            break
        number += text.count("\n", end, position)
        where, end = f"{file}, line {number}", position
        if is_open and text[position] == "]":
            is_open, position = False, position + 1
            continue
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            where = f"{file}, line {first + error.lineno - 1}"
            raise BadInputError(f"{where}: not JSON: {_cause(error)}") from error
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"{where}: not JSON: {_cause(error)}") from error
        yield _row(where, value)
    if is_open:
        raise BadInputError(
            f"{file}: is truncated: the array that begins on line {first} has no end"
        )


def _require_moderate(file: Path, number: int, text: str) -> None:
    """Check the encoding and the number of values of `text`, which begins on line `number`."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = number + text.count("\n", 0, error.start)
        raise BadInputError(
            f"{file}, line {line}: not UTF-8; convert the file with iconv"
        ) from error
    # Every value but the first of its container follows a comma: counted before any is made.
    if text.count(",") + text.count("{") + text.count("[") > MAX_VALUES:
        raise BadInputError(
            f"{file}, line {number}: has more than {MAX_VALUES:,} values; keep its text only"
        )


def _row(where: str, value: object) -> Row:
    if not isinstance(value, dict):
        raise BadInputError(
            f'{where}: is not a JSON object; write each text as {{"text": "…"}} on a line'
        )
    try:
        require_shallow(value)
    except ValueError as error:
        raise BadInputError(f"{where}: {error}") from error
    return Row(where, value)


def _not_json(where: str, line: str, error: Exception) -> str:
    if line[0] in "{[":
        return f"{where}: not JSON: {_cause(error)}"
    return (
        f"{where}: not JSON but plain text; write each text as a JSON object on a line, "
        """{"text": "…"}, for example with jq -R '{text: .}'"""
    )


def _cause(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        is_cut = error.msg.startswith("Unterminated") or error.pos >= len(error.doc)
        where = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        return f"{where}; the file is truncated" if is_cut else where
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
