"""Answers of the model in the shapes of OpenAI's API, whole and streamed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..generation import Usage
from .request import CompletionRequest
from .upstream import Piece

Json = dict[str, Any]

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Replies:
    """The replies to one request: their id, and what all of them say. Chunks are JSON texts."""

    def __init__(self, request: CompletionRequest, reply_id: str, model: str) -> None:
        self.request = request
        self.id = reply_id
        self._model = model
        self._created = int(time.time())
        # All chunks of a stream begin and end alike.
        head = self._head("chat.completion.chunk" if request.chat else "text_completion")
        self._begin = _encode(head)[:-1] + ',"choices":'
        self._end = ',"usage":null}' if request.include_usage else "}"

    def whole(self, answers: Sequence[Piece]) -> Json:
        """The reply that is not streamed. `answers` has one for each generation."""
        kind = "chat.completion" if self.request.chat else "text_completion"
        choice = _chat_choice if self.request.chat else _text_choice
        choices = [choice(index, answer) for index, answer in enumerate(answers)]
        return self._head(kind) | {"choices": choices, "usage": self._usage(answers)}

    def first(self, index: int) -> str:
        """The chunk that begins a choice of a chat."""
        return self._chunk([_delta(index, {"role": "assistant", "content": ""})])

    def chunk(self, index: int, piece: Piece, offset: int) -> str | None:
        """The chunk for a piece of a choice, None if it has nothing to say. `offset` is how many
        characters the tokens before it have."""
        if not self.request.chat:
            empty = not (piece.text or piece.logprobs or piece.finish)
            return None if empty else self._chunk([_text_choice(index, piece, offset)])
        delta: Json = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.text:
            delta["content"] = piece.text
        if piece.calls:
            delta["tool_calls"] = piece.calls
        if not (delta or piece.logprobs or piece.finish):
            return None
        return self._chunk([_delta(index, delta, piece)])

    def usage_chunk(self, lasts: Sequence[Piece]) -> str:
        """The last chunk of a stream that reports usage. `lasts` has the last piece of each
        generation."""
        return f'{self._begin}[],"usage":{_encode(self._usage(lasts))}}}'

    def usage(self, lasts: Sequence[Piece]) -> Usage:
        """Tokens of all generations; a prompt with several choices counts once."""
        counted = [piece.usage for piece in lasts if piece.usage is not None]
        return Usage(
            sum(usage.prompt for usage in counted[:: self.request.choices_per_prompt]),
            sum(usage.answer for usage in counted),
            sum(usage.reasoning for usage in counted),
        )

    def _usage(self, lasts: Sequence[Piece]) -> Json:
        usage = self.usage(lasts)
        total: Json = {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.answer,
            "total_tokens": usage.prompt + usage.answer,
        }
        if self.request.chat:
            total["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
        return total

    def _chunk(self, choices: list[Json]) -> str:
        return f"{self._begin}{_encode(choices)}{self._end}"

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self._created, "model": self._model}


def _delta(index: int, delta: Json, piece: Piece | None = None) -> Json:
    choice: Json = {"index": index, "delta": delta, "finish_reason": piece and piece.finish}
    if piece and piece.logprobs:
        choice["logprobs"] = {"content": piece.logprobs, "refusal": None}
    return choice


def _chat_choice(index: int, answer: Piece) -> Json:
    message: Json = {
        "role": "assistant",
        "content": answer.text or (None if answer.calls else ""),
        "refusal": None,
    }
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = answer.calls
    logprobs = {"content": answer.logprobs, "refusal": None} if answer.logprobs else None
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": answer.finish,
    }


def _text_choice(index: int, piece: Piece, offset: int = 0) -> Json:
    return {
        "index": index,
        "text": piece.text,
        "logprobs": _text_logprobs(piece.logprobs, offset) if piece.logprobs else None,
        "finish_reason": piece.finish,
    }


def _text_logprobs(rows: Sequence[Mapping[str, Any]], offset: int) -> Json:
    """Chat's rows of log-probabilities as the columns of `/v1/completions`."""
    offsets = []
    for row in rows:
        offsets.append(offset)
        offset += len(row["token"])
    return {
        "tokens": [row["token"] for row in rows],
        "token_logprobs": [row["logprob"] for row in rows],
        "top_logprobs": [
            {top["token"]: top["logprob"] for top in row["top_logprobs"]} for row in rows
        ],
        "text_offset": offsets,
    }
