"""Streams and short requests, one after the other, while something is done to the servers."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Self

import httpx
import openai
import tritonclient.grpc.aio as triton

from nemotron_deploy.runtime import contract
from nemotron_deploy.tests.e2e.streams import stream

TOKENS = 192
"""Of a stream, which then takes several seconds."""

PROMPT = "What is 2 + 3?"
READY_S = 300


class Load:
    """Clients of a Service inside `with`. Each sends its next request when it has its answer.

    Of `clients`, each with a connection of its own, one streams over OpenAI's API, one sends short
    requests, each over a new connection, and the others have long-lived gRPC channels. None of them
    tries a request again.
    """

    def __init__(self, host: str, clients: int = 4) -> None:
        self.host, self.clients = host, clients
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._clients()))
        self._started = threading.Semaphore(0)

    def __enter__(self) -> Self:
        self._thread.start()
        for _ in range(self.clients):
            assert self._started.acquire(timeout=READY_S), f"no first answer: {self.failures[:3]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def require_whole(self) -> None:
        """Assert that every client was served, and that nothing failed."""
        kinds = "\n".join(f"{count} times {text}" for text, count in Counter(self.failures).items())
        assert not self.failures, f"{dict(self.done)} did not fail, and\n{kinds}"
        assert set(self.done) == {"gRPC stream", "OpenAI stream", "request"}

    async def _clients(self) -> None:
        address = f"{self.host}:{contract.GRPC.number}"
        async with AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(triton.InferenceServerClient(address))
                for _ in range(self.clients - 2)
            ]
            endpoint = await stack.enter_async_context(
                openai.AsyncOpenAI(
                    base_url=f"http://{self.host}:{contract.OPENAI.number}/v1",
                    api_key="none",
                    max_retries=0,
                )
            )
            await asyncio.gather(
                *(self._repeat("gRPC stream", partial(self._grpc, one)) for one in channels),
                self._repeat("OpenAI stream", partial(self._openai, endpoint)),
                self._repeat("request", self._request),
            )

    async def _repeat(self, kind: str, request: Callable[[], Awaitable[None]]) -> None:
        first = True
        while not self._stopping.is_set():
            try:
                await request()
            except Exception as error:
                self.failures.append(f"{kind}: {type(error).__name__}: {error}")
            else:
                self.done[kind] += 1
            if first:
                self._started.release()
                first = False

    async def _grpc(self, client: triton.InferenceServerClient) -> None:
        answers = stream(
            client, text_input=PROMPT, streaming=True, ignore_eos=True,
            sampling_param_max_tokens=TOKENS,
        )  # fmt: skip
        last = [answer async for answer in answers if "num_output_tokens" in answer][-1]
        assert last["num_output_tokens"] == TOKENS, f"only {last['num_output_tokens']} tokens"

    async def _openai(self, client: openai.AsyncOpenAI) -> None:
        usage = None
        async for chunk in await client.completions.create(
            model="tiny", prompt=PROMPT, max_tokens=TOKENS, stream=True,
            stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
        ):  # fmt: skip
            usage = chunk.usage or usage
        assert usage is not None, "the stream ended without usage"
        assert usage.completion_tokens == TOKENS, f"only {usage.completion_tokens} tokens"

    async def _request(self) -> None:
        url = f"http://{self.host}:{contract.OPENAI.number}/v1/completions"
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 2}
        async with httpx.AsyncClient(timeout=120) as client:
            answer = await client.post(url, json=body)
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
