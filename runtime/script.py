"""Read a script: a file of answers that the scripted executor plays.

One JSON object a line: `{"when": TEXT, "pieces": [TEXT | {"hex": "…"}, …], "pace_ms": N}`. The
first answer whose `when` occurs in the prompt is played, one piece each `pace_ms` milliseconds. A
piece counts as one token; in hexadecimal digits, it may end within a UTF-8 character.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .untrusted import parse_json

MAX_BYTES: Final = 64 * 2**20
"""The longest script."""

MAX_PACE_MS: Final = 3_600_000

_FIELDS: Final = ("when", "pieces", "pace_ms")


class ScriptError(ValueError):
    """A script that cannot be played; the message names file and line."""


@dataclass(frozen=True, slots=True)
class ScriptedAnswer:
    """The answer to prompts that contain `when`: pieces as UTF-8, and the seconds that each one
    takes."""

    when: str
    pieces: tuple[bytes, ...]
    pace_s: float


def read_script(path: Path) -> list[ScriptedAnswer]:
    """The answers of a script, in its order. Raises `ScriptError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ScriptError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise ScriptError(f"{path}: is too large: over {MAX_BYTES} bytes")
    answers = [
        _answer(line, f"{path}:{number}")
        for number, line in enumerate(data.split(b"\n"), 1)
        if line.strip()
    ]
    if not answers:
        raise ScriptError(f"{path}: has no answer; write one JSON object on each line")
    return answers


def _answer(line: bytes, where: str) -> ScriptedAnswer:
    try:
        fields = parse_json(line)
    except ValueError as error:
        raise ScriptError(f"{where}: not readable as JSON: {error}") from error
    if not isinstance(fields, Mapping):
        raise ScriptError(f"{where}: must be a JSON object with {', '.join(_FIELDS)}")
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise ScriptError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(_FIELDS)}")
    when, pieces, pace = fields.get("when"), fields.get("pieces"), fields.get("pace_ms", 0)
    if not isinstance(when, str):
        raise ScriptError(f"{where}: `when` must be a text")
    if not isinstance(pieces, list):
        raise ScriptError(f"{where}: `pieces` must be a list")
    number = isinstance(pace, int | float) and not isinstance(pace, bool)
    if not number or not math.isfinite(pace) or not 0 <= pace <= MAX_PACE_MS:
        raise ScriptError(f"{where}: `pace_ms` must be a number from 0 to {MAX_PACE_MS}")
    given = tuple(_piece(piece, f"{where}: pieces[{i}]") for i, piece in enumerate(pieces))
    return ScriptedAnswer(when, given, pace / 1000)


def _piece(piece: Any, where: str) -> bytes:
    if isinstance(piece, str):
        try:
            return piece.encode()
        except UnicodeEncodeError:
            raise ScriptError(f"{where} holds half of a surrogate pair") from None
    digits = piece.get("hex") if isinstance(piece, Mapping) and len(piece) == 1 else None
    if not isinstance(digits, str):
        raise ScriptError(f'{where} must be a text or {{"hex": "…"}}')
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise ScriptError(f"{where}: {digits[:40]!r} is not hexadecimal") from None
