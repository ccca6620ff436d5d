"""When the OpenAI endpoint ends the connections of its clients."""

from __future__ import annotations

import asyncio

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from nemotron_deploy.runtime.openai.renewal import Renewed

AGE_S = 10.0


async def whole(request: Request) -> Response:
    return PlainTextResponse("an answer")


async def stream(request: Request) -> Response:
    return StreamingResponse(iter(["data: 1\n\n"]), media_type="text/event-stream")


APP = Starlette(routes=[Route("/whole", whole), Route("/stream", stream)])


def endings(*requests: tuple[str, int, float]) -> list[bool]:
    """Whether each answer ends its connection. A request is its path, the client's port, which
    tells connections apart, and its time in seconds."""
    now = 0.0
    app = Renewed(APP, AGE_S, clock=lambda: now)

    async def ask() -> list[bool]:
        nonlocal now
        ended = []
        for path, port, moment in requests:
            now = moment
            transport = httpx.ASGITransport(app, client=("10.0.0.1", port))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                answer = await client.get(path)
            ended.append(answer.headers.get("connection") == "close")
        return ended

    return asyncio.run(ask())


def test_a_connection_ends_with_the_first_answer_after_its_age() -> None:
    assert endings(("/whole", 1, 0.0), ("/whole", 1, 9.9), ("/whole", 1, 10.0)) == [
        False, False, True,
    ]  # fmt: skip


def test_connections_have_ages_of_their_own() -> None:
    assert endings(("/whole", 1, 0.0), ("/whole", 2, 9.0), ("/whole", 1, 11.0)) == [
        False, False, True,
    ]  # fmt: skip
    assert endings(("/whole", 1, 0.0), ("/whole", 2, 9.0), ("/whole", 2, 11.0)) == [False] * 3


def test_a_new_connection_from_the_same_port_is_new() -> None:
    assert endings(("/whole", 1, 0.0), ("/whole", 1, 10.0), ("/whole", 1, 11.0)) == [
        False, True, False,
    ]  # fmt: skip


def test_a_stream_ends_its_connection() -> None:
    assert endings(("/stream", 1, 0.0), ("/whole", 1, 1.0)) == [True, False]
