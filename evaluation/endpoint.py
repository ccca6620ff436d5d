"""Requests to an OpenAI endpoint, many at the same time, repeated where a failure may pass."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from ..core.errors import BadInputError

Body = Mapping[str, Any]

_PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0)
"""Waits before a request is sent again; after the last one it has failed."""

_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Status codes of failures that may pass."""


class RefusedRequestError(BadInputError):
    """The server does not answer a request, and would not if it were sent again."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind an OpenAI endpoint.

    Attributes:
        url: The endpoint, with `/v1`.
        model: The served model's name.
        key: The API key, where one is needed.
        concurrency: Requests at the same time.
        timeout_s: Seconds that an answer may take.
    """

    url: str
    model: str
    key: str | None = None
    concurrency: int = 8
    timeout_s: float = 600.0

    def ask(self, path: str, body: Body) -> dict[str, Any]:
        """The answer to one request, whose `model` is added. Raises as `ask_all`."""
        answers: list[dict[str, Any]] = []
        self.ask_all(path, [body], lambda _, answer: answers.append(answer))
        return answers[0]

    def ask_all(
        self, path: str, bodies: Sequence[Body], on_answer: Callable[[int, dict[str, Any]], None]
    ) -> None:
        """Send every body to `path`; `on_answer` takes its number and the answer, as they come.

        Raises `RefusedRequestError` for a request that the server refuses, `BadInputError` for a
        server that stops answering. The requests that are under way are then dropped.
        """
        asyncio.run(self._ask_all(path, bodies, on_answer))

    async def _ask_all(
        self, path: str, bodies: Sequence[Body], on_answer: Callable[[int, dict[str, Any]], None]
    ) -> None:
        numbered = iter(enumerate(bodies))

        async def work(client: httpx.AsyncClient) -> None:
            for number, body in numbered:
                on_answer(number, await self._answer(client, path, body))

        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        timeout = httpx.Timeout(self.timeout_s, connect=min(10.0, self.timeout_s))
        async with httpx.AsyncClient(
            headers=headers, limits=limits, timeout=timeout, trust_env=False
        ) as client:
            workers = [asyncio.create_task(work(client)) for _ in range(self.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()

    async def _answer(self, client: httpx.AsyncClient, path: str, body: Body) -> dict[str, Any]:
        problem = ""
        for pause in (*_PAUSES_S, None):
            try:
                response = await client.post(self.url + path, json={"model": self.model, **body})
            except httpx.TimeoutException:
                problem = f"no answer within {self.timeout_s:g} s (--timeout)"
            except httpx.TransportError as error:
                problem = f"no server answers ({error or type(error).__name__})"
            else:
                if response.status_code == 200:
                    return self._object(response)
                problem = _message(response)
                if response.status_code not in _PASSING:
                    raise RefusedRequestError(f"{self.url}: refuses a request: {problem}")
            if pause is not None:
                await asyncio.sleep(pause)
        raise BadInputError(f"{self.url}: {problem}, tried {len(_PAUSES_S) + 1} times")

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
            answer["choices"][0]
        except (ValueError, LookupError, TypeError) as error:
            raise BadInputError(
                f"{self.url}: its answer is none of OpenAI's API (no `choices`)"
            ) from error
        return dict(answer)


def _message(response: httpx.Response) -> str:
    """What a server says of a failure."""
    try:
        error = response.json()["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, LookupError, TypeError):
        return f"HTTP status {response.status_code}"
