"""The ASGI application: routes, bodies, streams, and what happens when a client hangs up."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ApiError
from .keys import ApiKeys
from .replies import Replies
from .request import CompletionRequest, Inputs, read_request
from .spans import Span, Spans
from .upstream import Piece, Upstream

MAX_BODY_BYTES: Final = 8 * 2**20
"""Longest body of a request. The model limits prompts further, by its context."""

_DISCARDED_BYTES: Final = 64 * 2**20
"""How much of a longer body is read and dropped, so that its sender reads the refusal."""

_DONE: Final = b"data: [DONE]\n\n"

_log = logging.getLogger(__name__)


def create_app(upstream: Upstream, keys: ApiKeys | None, spans: Spans) -> ASGIApp:
    """The endpoint for `upstream`. Without `keys`, everybody who can reach it may use it."""

    async def complete(request: Request, chat: bool) -> Response:
        operation = "chat" if chat else "text_completion"
        span = spans.begin(operation, request.url.path, request.headers)
        try:
            wanted = read_request(await _body(request), upstream.model, chat)
        except ApiError as error:
            span.failed(error, error.status)
            span.end()
            raise
        span.read(wanted, upstream.model)
        return Answer(upstream, wanted, span)

    async def chat_completions(request: Request) -> Response:
        return await complete(request, chat=True)

    async def completions(request: Request) -> Response:
        return await complete(request, chat=False)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(upstream.model)]})

    async def one_model(request: Request) -> Response:
        name = request.path_params["name"]
        if name != upstream.model:
            message = f"the model {name!r} does not exist; this server has {upstream.model!r}"
            raise ApiError(404, message, "model_not_found", "model")
        return JSONResponse(_model(name))

    async def health(request: Request) -> Response:
        ready = await upstream.ready()
        status = {"status": "ready" if ready else "the model is not ready"}
        return JSONResponse(status, 200 if ready else 503)

    async def alive(request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat_completions, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/health", health),
            Route("/health/live", alive),
        ],
        exception_handlers={ApiError: _refusal, HTTPException: _refusal, Exception: _refusal},
    )
    return app if keys is None else _guarded(app, keys)


class Answer(Response):
    """The answer to one request, made while it is sent. It ends at once when the client is gone."""

    def __init__(self, upstream: Upstream, request: CompletionRequest, span: Span) -> None:
        self.background = None
        self._upstream = upstream
        self._request = request
        self._span = span
        prefix = "chatcmpl" if request.chat else "cmpl"
        # Also the request id of the model, which nobody else can guess.
        self._replies = Replies(request, f"{prefix}-{secrets.token_hex(16)}", upstream.model)
        self._named = {"x-request-id": self._replies.id}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._stream if self._request.stream else self._whole
        try:
            await _unless(_disconnect(receive), answer(scope, receive, send))
        finally:
            self._span.end()

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(number: int, inputs: Inputs) -> Piece:
            (piece,) = [piece async for piece in self._generate(number, inputs)]
            return piece

        try:
            async with asyncio.timeout(self._request.timeout):
                answers = await _together(map(answer, *self._numbered()))
            self._answered(answers)
            response: Response = JSONResponse(self._replies.whole(answers), headers=self._named)
        except Exception as error:
            response = self._failure(error)
        await response(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        events = _Events(send, self._named)
        try:
            async with asyncio.timeout(self._request.timeout):
                lasts = await _together(
                    self._stream_choice(number, inputs, events)
                    for number, inputs in zip(*self._numbered(), strict=True)
                )
            self._answered(lasts)
            if self._request.include_usage:
                await events.send(self._replies.usage_chunk(lasts))
            await events.end(_DONE)
        except Exception as error:
            response = self._failure(error, events.started)
            if events.started:  # the status has been sent
                await events.end(b"data: " + bytes(response.body) + b"\n\n")
            else:
                await response(scope, receive, send)

    async def _stream_choice(self, number: int, inputs: Inputs, events: _Events) -> Piece:
        """Send a choice; the last piece of it, which has the reason of its end and the usage."""
        piece: Piece | None = None
        offset = 0
        async for following in self._generate(number, inputs):
            if piece is None:
                self._span.first_piece()
                if self._request.chat:
                    await events.send(self._replies.first(number))
            piece = following
            chunk = self._replies.chunk(number, piece, offset)
            if chunk is not None:
                await events.send(chunk)
            offset += sum(len(row["token"]) for row in piece.logprobs)
        assert piece is not None, "the model's last response has a piece"
        return piece

    def _generate(self, number: int, inputs: Inputs) -> AsyncIterator[Piece]:
        request_id = f"{self._replies.id}-{number}"
        return self._upstream.generate(inputs, request_id, self._span.metadata)

    def _answered(self, lasts: Sequence[Piece]) -> None:
        finishes = [piece.finish for piece in lasts]
        self._span.answered(self._replies.id, finishes, self._replies.usage(lasts))

    def _failure(self, error: Exception, begun: bool = False) -> JSONResponse:
        """The response for a failure. `begun` says that the status has been sent."""
        known = _as_api_error(error)
        self._span.failed(known, 200 if begun else known.status)
        return _error_response(known, self._named)

    def _numbered(self) -> tuple[Sequence[int], Sequence[Inputs]]:
        generations = self._request.generations
        return range(len(generations)), generations


class _Events:
    """A stream of server-sent events, which begins with the first one."""

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self.started = False
        self._send = send
        self._headers = headers
        self._lock = asyncio.Lock()  # choices of one request send at the same time

    async def send(self, text: str) -> None:
        """Send one JSON value."""
        await self._write(f"data: {text}\n\n".encode(), more=True)

    async def end(self, last: bytes = b"") -> None:
        """End the stream, after the event `last`."""
        await self._write(last, more=False)

    async def _write(self, data: bytes, more: bool) -> None:
        if not self.started:
            async with self._lock:
                await self._start()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _start(self) -> None:
        if self.started:
            return
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
            **self._headers,
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw})
        self.started = True


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "nemo-deploy"}


async def _body(request: Request) -> bytes:
    """The body of a request. Raises `ApiError` for one that is too long."""
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size <= MAX_BODY_BYTES:
                parts.append(part)
            elif size > _DISCARDED_BYTES:
                break
    except ClientDisconnect:
        raise ApiError(400, "the body ended early", "invalid_json") from None
    if size > MAX_BODY_BYTES:
        message = f"the body has more than {MAX_BODY_BYTES} bytes, the limit"
        raise ApiError(413, message, "request_too_large")
    return b"".join(parts)


async def _disconnect(receive: Receive) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless(event: Coroutine[Any, Any, None], work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, or stop it once `event` has happened."""
    tasks = [asyncio.create_task(event), asyncio.create_task(work)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _together(works: Any) -> list[Any]:
    """The results of all works. The first failure stops the others and is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TimeoutError):
        return ApiError(504, "the answer was not complete within the request's timeout", "timeout")
    if isinstance(error, HTTPException):
        code = "not_found" if error.status_code == 404 else "invalid_request"
        return ApiError(error.status_code, str(error.detail), code)
    _log.error("a request failed", exc_info=error)
    return ApiError(500, f"{type(error).__name__} in the endpoint", "internal_error")


def _error_response(error: Exception, headers: dict[str, str] | None = None) -> JSONResponse:
    known = _as_api_error(error)
    return JSONResponse(known.to_json(), known.status, {**(headers or {}), **known.headers})


async def _refusal(request: Request, error: Exception) -> Response:
    return _error_response(error)


def _guarded(app: ASGIApp, keys: ApiKeys) -> ASGIApp:
    """`app`, whose API needs one of `keys`; its health does not."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        guard = scope["type"] == "http" and scope["path"].startswith("/v1")
        given = dict(scope.get("headers", ())).get(b"authorization", b"").decode("latin-1")
        if not guard or keys.accept(given):
            await app(scope, receive, send)
            return
        message = "the API key is missing or wrong; send it as: Authorization: Bearer KEY"
        await _error_response(ApiError(401, message, "invalid_api_key"))(scope, receive, send)

    return guarded
