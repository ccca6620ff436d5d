"""Triton's HTTP extension `generate_stream`: server-sent events of a decoupled model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import quote

from ...core.errors import BadInputError
from ...runtime import contract
from ..sample import Kind
from .base import Piece, Request, RequestFailedError
from .http import HttpServer, read_object
from .llmapi import chosen_model, require_llmapi

_LIVE: Final = "/v2/health/live"


class TritonHttp:
    """A model with the tensors of NVIDIA's `llmapi` model, on the Triton server at `url`.

    The protocol has no last event: a stream that is complete by HTTP counts as complete.
    """

    deltas = False

    def __init__(self, url: str) -> None:
        self.url = url
        self._server = HttpServer(url)
        self._path = ""
        self._inputs: frozenset[str] = frozenset()

    async def check(self, model: str | None) -> str:
        """See `Target`."""
        rows = await self._server.ask("POST", "/v2/repository/index")
        if not isinstance(rows, list):
            raise BadInputError(f"{self.url}: is no Triton server (no /v2/repository/index)")
        ready = sorted({str(row["name"]) for row in rows if row.get("state") == "READY"})
        name = chosen_model(self.url, model, ready)
        config = await self._server.ask("GET", f"/v2/models/{quote(name)}/config") or {}
        self._inputs = frozenset(row["name"] for row in config.get("input", ()))
        require_llmapi(
            f"the model {name!r} at {self.url}",
            self._inputs,
            frozenset(row["name"] for row in config.get("output", ())),
            decoupled=bool(config.get("model_transaction_policy", {}).get("decoupled")),
        )
        self._path = f"/v2/models/{quote(name)}/generate_stream"
        return name

    async def open(self, streams: int) -> None:
        """See `Target`."""
        await self._server.open(streams, _LIVE)

    async def answers(self) -> bool:
        """See `Target`."""
        return await self._server.status(_LIVE) is not None

    async def close(self) -> None:
        """See `Target`."""
        await self._server.close()

    async def stream(
        self, request: Request, on_send: Callable[[], None]
    ) -> AsyncGenerator[Piece, None]:
        """See `Target`."""
        body = self._body(request)
        async with aclosing(self._server.events(self._path, body, on_send)) as events:
            async for data in events:
                yield read_piece(read_object(data))

    def _body(self, request: Request) -> dict[str, Any]:
        values = {
            contract.TEXT_INPUT: request.whole_prompt,
            contract.STREAMING: True,
            contract.MAX_TOKENS: request.max_tokens,
            contract.EXCLUDE_INPUT: True,
            contract.IGNORE_EOS: request.ignore_eos,
        }
        body: dict[str, Any] = {
            tensor.name: value for tensor, value in values.items() if tensor.name in self._inputs
        }
        return body | {"id": request.id}


def read_piece(event: Mapping[str, Any]) -> Piece:
    """What an event adds. Raises `RequestFailedError` for one that reports an error or whose
    outputs are of other types."""
    if "error" in event:
        raise RequestFailedError(Kind.SERVER, str(event["error"]))
    text = event.get(contract.TEXT_OUTPUT.name, "")
    reasoning = event.get(contract.REASONING_CONTENT.name, "")
    if not (isinstance(text, str) and isinstance(reasoning, str)):
        raise RequestFailedError(Kind.GARBAGE, "the text of an event is no text")
    return Piece(
        text=text,
        reasoning=reasoning,
        output_tokens=event.get(contract.OUTPUT_COUNT.name),
        prompt_tokens=event.get(contract.INPUT_COUNT.name),
    )
