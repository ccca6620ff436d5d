"""OpenAI's protocol: chat or text completions, streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from ...core.errors import BadInputError
from ...runtime import contract
from ..sample import Kind
from .base import Piece, Request, RequestFailedError
from .http import HttpServer, error_message, read_object

_MODELS: Final = "/v1/models"
_DONE: Final = "[DONE]"


class OpenAi:
    """An OpenAI endpoint at `url`, without `/v1`. With `chat`, each prompt is sent as a user's
    message, else it is completed as it is. `key` is its API key."""

    deltas = True

    def __init__(self, url: str, *, chat: bool, key: str | None) -> None:
        self.url = url
        self._server = HttpServer(url, key)
        self._chat = chat
        self._model = ""

    async def check(self, model: str | None) -> str:
        """See `Target`."""
        answer = await self._server.ask("GET", _MODELS)
        try:
            names = [str(row["id"]) for row in answer["data"]]
        except (KeyError, TypeError) as error:
            raise BadInputError(
                f"{self.url}: is no OpenAI endpoint, or wants another API key than that in "
                f"{contract.OPENAI_KEY.name} (no list of models at /v1/models)"
            ) from error
        if model is None and len(names) != 1:
            raise BadInputError(
                f"{self.url}: has {len(names)} models ({', '.join(names) or 'none'}); choose one "
                "with --model"
            )
        if model is not None and model not in names:
            raise BadInputError(
                f"{self.url}: has no model {model!r}; it has {', '.join(names) or 'none'}"
            )
        self._model = model or names[0]
        return self._model

    async def open(self, streams: int) -> None:
        """See `Target`."""
        await self._server.open(streams, _MODELS)

    async def answers(self) -> bool:
        """See `Target`."""
        return await self._server.status(_MODELS) is not None

    async def close(self) -> None:
        """See `Target`."""
        await self._server.close()

    async def stream(
        self, request: Request, on_send: Callable[[], None]
    ) -> AsyncGenerator[Piece, None]:
        """See `Target`."""
        path = "/v1/chat/completions" if self._chat else "/v1/completions"
        done = False
        async with aclosing(self._server.events(path, self._body(request), on_send)) as events:
            async for data in events:
                if done:
                    raise RequestFailedError(Kind.GARBAGE, f"an event came after {_DONE}")
                if data == _DONE:
                    done = True
                    continue
                yield read_piece(read_object(data))
        if not done:
            raise RequestFailedError(Kind.CLOSED, f"the stream was closed before {_DONE}")

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": request.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.ignore_eos:
            body["ignore_eos"] = True
        if self._chat:
            return body | {"messages": _messages(request)}
        return body | {"prompt": request.whole_prompt}


def _messages(request: Request) -> list[dict[str, str]]:
    earlier = [
        {"role": role, "content": text}
        for turn in request.history
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return [*earlier, {"role": "user", "content": request.prompt}]


def read_piece(event: Mapping[str, Any]) -> Piece:
    """What an event of a streamed completion adds.

    Raises `RequestFailedError` for an event that reports an error or is not of the protocol.
    """
    if event.get("error"):
        raise RequestFailedError(Kind.SERVER, error_message(event["error"]))
    try:
        usage = event.get("usage") or {}
        choices = event["choices"]
        delta = (choices[0].get("delta") or {}) if choices else {}
        text = delta.get("content") or (choices[0].get("text") if choices else "") or ""
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
        calls = delta.get("tool_calls") or ()
        return Piece(
            text=text + "".join(_call_text(call) for call in calls),
            reasoning=reasoning,
            output_tokens=usage.get("completion_tokens"),
            prompt_tokens=usage.get("prompt_tokens"),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise RequestFailedError(
            Kind.GARBAGE, f"an event is no chunk of a completion ({error!r})"
        ) from error


def _call_text(call: Mapping[str, Any]) -> str:
    function = call.get("function") or {}
    return str(function.get("name") or "") + str(function.get("arguments") or "")
