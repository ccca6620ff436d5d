"""What protocols over HTTP share: connections, server-sent events, and what failures mean."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import httpx_sse

from ...core.errors import BadInputError
from ..sample import Kind
from .base import RequestFailedError

_CONNECT_TIMEOUT_S: Final = 5.0
_PROBE_TIMEOUT_S: Final = 2.0
_MOST_OPENED: Final = 64
"""Connections that are opened ahead of a level."""
_OVERLOADED: Final = (429, 503)


class HttpServer:
    """Connections to the server at `url`, `http://host:port` or `https://host:port`.

    Proxies of the environment are not used, and redirects are not followed: the load goes where it
    is sent.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=False,
            follow_redirects=False,
        )

    async def ask(self, method: str, path: str) -> Any:
        """The JSON that the server answers, None for another status than 200 or no JSON.

        Raises `BadInputError` where no server answers.
        """
        try:
            answer = await self._client.request(method, path, timeout=_CONNECT_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise BadInputError(
                f"no server answers at {self.url} ({_said(error)}). Check that it runs and that "
                "this is its HTTP port (8000 is Triton's, 9000 that of its OpenAI endpoint)"
            ) from error
        try:
            return answer.json() if answer.status_code == 200 else None
        except ValueError:
            return None

    async def status(self, path: str) -> int | None:
        """The status of `path`, None where the server does not answer within two seconds."""
        try:
            answer = await self._client.get(path, timeout=_PROBE_TIMEOUT_S)
        except httpx.HTTPError:
            return None
        return answer.status_code

    async def open(self, streams: int, path: str) -> None:
        """Open as many connections as there will be streams (64 at most) by reading `path`."""
        await asyncio.gather(*(self.status(path) for _ in range(min(streams, _MOST_OPENED))))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def events(
        self, path: str, body: Mapping[str, Any], on_send: Callable[[], None]
    ) -> AsyncGenerator[str, None]:
        """The data of each event that the server answers to `body`. `on_send` is called right
        before it is sent.

        Raises `RequestFailedError`.
        """
        async with _translated_failures() as progress:
            on_send()
            async with httpx_sse.aconnect_sse(self._client, "POST", path, json=body) as source:
                if source.response.status_code != 200:
                    raise await _refused(source.response)
                async for event in source.aiter_sse():
                    progress.answered = True
                    yield event.data


class _Progress:
    """Whether a response has come."""

    answered = False


@asynccontextmanager
async def _translated_failures() -> AsyncIterator[_Progress]:
    progress = _Progress()
    try:
        yield progress
    except httpx_sse.SSEError as error:
        raise RequestFailedError(Kind.GARBAGE, str(error)) from error
    except (httpx.DecodingError, UnicodeDecodeError) as error:
        raise RequestFailedError(Kind.GARBAGE, _said(error)) from error
    except httpx.HTTPError as error:
        kind = Kind.CLOSED if progress.answered else Kind.UNREACHABLE
        raise RequestFailedError(kind, _said(error), refused=not progress.answered) from error


async def _refused(response: httpx.Response) -> RequestFailedError:
    """What another status than 200 means, with the server's message."""
    status = response.status_code
    await response.aread()
    if status in _OVERLOADED:
        kind = Kind.OVERLOADED
    elif 400 <= status < 500:
        kind = Kind.REJECTED
    else:
        kind = Kind.SERVER
    try:
        message = error_message(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        message = response.text
    return RequestFailedError(kind, f"status {status}: {message}")


def error_message(error: object) -> str:
    """The message in the `error` of an answer: Triton's is a text, OpenAI's an object."""
    return str(error.get("message", error)) if isinstance(error, Mapping) else str(error)


def read_object(data: str) -> Mapping[str, Any]:
    """The JSON object in an event. Raises `RequestFailedError` for anything else."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise RequestFailedError(Kind.GARBAGE, f"an event is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise RequestFailedError(Kind.GARBAGE, "an event is no JSON object")
    return found


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
