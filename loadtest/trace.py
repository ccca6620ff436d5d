"""Traces: requests as they came to a server, alone or in conversations, to be sent again."""

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
        due_s: Seconds after the first request; None for a later turn of a conversation.
        output_length: Output tokens to ask for.
        prompt: Its prompt, if the trace holds it.
        input_length: Tokens of its prompt otherwise; of a later turn, those that it adds.
        hash_ids: The blocks of its prompt, of 512 tokens each; requests that name the same ones
            share that part.
        session: The conversation that it belongs to, if any.
        think_s: Seconds between the answer before it, in its conversation, and this request.
    """

    due_s: float | None
    output_length: int
    prompt: str | None = None
    input_length: int = 0
    hash_ids: tuple[int, ...] = ()
    session: str | None = None
    think_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Conversation:
    """Requests that follow each other, mostly one; the first is due after `due_s` seconds."""

    due_s: float
    turns: tuple[TraceRow, ...]


def read_trace(path: Path, max_tokens: int) -> list[Conversation]:
    """Read a trace, in the order of its times: a JSON object a line with `timestamp` in
    milliseconds, `input_length` (and perhaps `hash_ids`, Mooncake's form) or `prompt`, and
    `output_length` (else `max_tokens`). Rows with the same `session_id` are the turns of a
    conversation; a later one has `delay` in milliseconds in place of a time.

    Raises `BadInputError` that names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: cannot be read: {error}") from error
    conversations: dict[str, list[TraceRow]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _row(f"{path}:{number}", line, max_tokens)
            turns = conversations.setdefault(row.session or f"line {number}", [])
            if row.due_s is None and not turns:
                raise BadInputError(
                    f"{path}:{number}: the first request of a conversation needs `timestamp` in "
                    "milliseconds"
                )
            turns.append(row)
    if not conversations:
        raise BadInputError(f"{path}: holds no requests")
    starts = [(turns[0].due_s or 0.0, tuple(turns)) for turns in conversations.values()]
    starts.sort(key=lambda row: row[0])
    first = starts[0][0]
    return [Conversation(due - first, turns) for due, turns in starts]


def _row(place: str, line: str, max_tokens: int) -> TraceRow:
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise BadInputError(f"{place}: not readable as JSON ({error})") from error
    if not isinstance(row, dict):
        raise BadInputError(f"{place}: is no JSON object")
    session, prompt = row.get("session_id"), row.get("prompt")
    milliseconds, delay = _milliseconds(row.get("timestamp")), _milliseconds(row.get("delay", 0))
    length, output = row.get("input_length"), row.get("output_length", max_tokens)
    hashes = row.get("hash_ids") or []
    prompted = isinstance(prompt, str) and bool(prompt)
    hashed = isinstance(hashes, list) and all(isinstance(each, int) for each in hashes)
    timed = milliseconds is not None or (session is not None and "timestamp" not in row)
    if not (timed and (prompted or is_count(length)) and hashed and delay is not None):
        raise BadInputError(
            f"{place}: needs `timestamp` in milliseconds (or `session_id` and `delay`), and "
            "`input_length` in tokens or a text `prompt`"
        )
    if not is_count(output):
        raise BadInputError(f"{place}: `output_length` must be a number of tokens")
    return TraceRow(
        None if milliseconds is None else milliseconds / 1000.0,
        output,
        prompt if prompted else None,
        length or 0,
        tuple(hashes),
        None if session is None else f"session {session}",
        delay / 1000.0,
    )


def _milliseconds(value: Any) -> float | None:
    """`value` if it can be a time in milliseconds."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 <= value < _LATEST_MS else None


def work_of(conversation: Conversation, maker: PromptMaker | None) -> Work:
    """The work of `conversation`. Raises `BadInputError` where it has only lengths and there is no
    maker of prompts."""
    work: Work | None = None
    think_s = 0.0
    for row in reversed(conversation.turns):
        work = Work(_prompt(row, maker), row.output_length, work, think_s)
        think_s = row.think_s
    assert work is not None, "a conversation has a turn at least"
    return work


def _prompt(row: TraceRow, maker: PromptMaker | None) -> str:
    if row.prompt is not None:
        return row.prompt
    if maker is None:
        raise BadInputError(
            "the trace gives lengths of prompts, which need a tokenizer: add --tokenizer PATH"
        )
    shared: list[str] = []
    for name in row.hash_ids:
        shared += maker.block(name, BLOCK_TOKENS)
    # One token at least is the request's own, so that no two prompts are the same.
    return maker.prompt(row.input_length, shared[: row.input_length - 1])
