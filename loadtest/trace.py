"""Traces: requests as they came to a server, to be sent again at the same times."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..core.errors import BadInputError
from .prompts import PromptMaker, Work, is_count

BLOCK_TOKENS: Final = 512
"""Tokens of a block that `hash_ids` names, in Mooncake's traces."""
_LATEST_MS: Final = 1e15


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request of a trace.

    Attributes:
        due_s: Seconds after the first request.
        output_length: Output tokens to ask for.
        prompt: Its prompt, if the trace holds it.
        input_length: Tokens of its prompt otherwise.
        hash_ids: The blocks of its prompt, of 512 tokens each; requests that name the same ones
            share that part.
    """

    due_s: float
    output_length: int
    prompt: str | None = None
    input_length: int = 0
    hash_ids: tuple[int, ...] = ()


def read_trace(path: Path, max_tokens: int) -> list[TraceRow]:
    """Read a trace: a JSON object a line with `timestamp` in milliseconds, `input_length` (and
    perhaps `hash_ids`, Mooncake's form) or `prompt`, and `output_length` (else `max_tokens`).

    Raises `BadInputError` that names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read: {error}") from error
    rows = [
        _row(f"{path}:{number}", line, max_tokens)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not rows:
        raise BadInputError(f"{path}: holds no requests")
    rows.sort(key=lambda row: row.due_s)
    first = rows[0].due_s
    return [
        TraceRow(row.due_s - first, row.output_length, row.prompt, row.input_length, row.hash_ids)
        for row in rows
    ]


def _row(place: str, line: str, max_tokens: int) -> TraceRow:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise BadInputError(f"{place}: not readable as JSON ({error})") from error
    if not isinstance(row, dict):
        raise BadInputError(f"{place}: is no JSON object")
    milliseconds, prompt = _timestamp(row.get("timestamp")), row.get("prompt")
    length, output = row.get("input_length"), row.get("output_length", max_tokens)
    hashes = row.get("hash_ids") or []
    prompted = isinstance(prompt, str) and bool(prompt)
    hashed = isinstance(hashes, list) and all(isinstance(each, int) for each in hashes)
    if milliseconds is None or not (prompted or is_count(length)) or not hashed:
        raise BadInputError(
            f"{place}: needs `timestamp` in milliseconds, and `input_length` in tokens or a text "
            "`prompt`"
        )
    if not is_count(output):
        raise BadInputError(f"{place}: `output_length` must be a number of tokens")
    return TraceRow(
        milliseconds / 1000.0, output, prompt if prompted else None, length or 0, tuple(hashes)
    )


def _timestamp(value: Any) -> float | None:
    """`value` if it can be a time in milliseconds."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 <= value < _LATEST_MS else None


def work_of(row: TraceRow, maker: PromptMaker | None) -> Work:
    """The work of `row`. Raises `BadInputError` where it has only a length and there is no maker of
    prompts."""
    if row.prompt is not None:
        return Work(row.prompt, row.output_length)
    if maker is None:
        raise BadInputError(
            "the trace gives lengths of prompts, which need a tokenizer: add --tokenizer PATH"
        )
    shared: list[str] = []
    for name in row.hash_ids:
        shared += maker.block(name, BLOCK_TOKENS)
    # One token at least is the request's own, so that no two prompts are the same.
    return Work(maker.prompt(row.input_length, shared[: row.input_length - 1]), row.output_length)
