"""How long bystanders wait for a token while a hostile client sends huge prompts without pause.

Run as `python -m nemotron_deploy.benchmarks.hostile`: a real tritonserver, the executor `scripted`,
and a context so long that the prompts are tokenized before they are refused.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from ..runtime.contract import MAX_TOKENS, STREAMING
from ..tests.e2e.scripted_bundle import scripted_bundle
from ..tests.e2e.streams import stream
from ..triton_repo.local import LocalServer

PROMPT_BYTES: Final = 7_900_000
CONTEXT: Final = 1_000_000
PACE_MS: Final = 20

_LIMITS: Final[dict[str, Any]] = {STREAMING.name: True, MAX_TOKENS.name: 100_000}


@dataclass(frozen=True, slots=True)
class Bystanders:
    """The longest gaps in milliseconds between two tokens of any bystander, without and with the
    hostile client, and how many of its requests were answered meanwhile."""

    alone_ms: float
    beside_ms: float
    hostile_requests: int

    @property
    def ratio(self) -> float:
        return self.beside_ms / self.alone_ms


def measure(streams: int = 8, tokens: int = 500) -> Bystanders:
    """Run `streams` bystanders of so many tokens each, alone and beside the hostile client."""
    with tempfile.TemporaryDirectory() as folder:
        answer = {"when": "bystander", "pieces": ["x "] * tokens, "pace_ms": PACE_MS}
        bundle = scripted_bundle(Path(folder), [answer], 64, context=CONTEXT)
        with LocalServer(
            bundle.repository, executor="scripted", script=bundle.script, grace=1
        ) as server:
            server.wait_ready()
            return asyncio.run(_measure(server.grpc_url, streams))


async def _measure(url: str, streams: int) -> Bystanders:
    alone = max(await asyncio.gather(*(_longest_gap(url) for _ in range(streams))))
    hostile = _Hostile(url)
    task = asyncio.create_task(hostile.run())
    beside = max(await asyncio.gather(*(_longest_gap(url) for _ in range(streams))))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return Bystanders(1000 * alone, 1000 * beside, hostile.answered)


class _Hostile:
    def __init__(self, url: str) -> None:
        self._url, self.answered = url, 0

    async def run(self) -> None:
        prompt = ("Hello wörld, this is text. " * (PROMPT_BYTES // 27)).encode()[:PROMPT_BYTES]
        while True:
            async with triton.InferenceServerClient(self._url) as client:
                with suppress(InferenceServerException):  # such a prompt is refused
                    await anext(stream(client, text_input=prompt, **_LIMITS))
                self.answered += 1


async def _longest_gap(url: str) -> float:
    longest, last = 0.0, None
    async with triton.InferenceServerClient(url) as client:
        async for _ in stream(client, text_input="bystander", **_LIMITS):
            now = time.monotonic()
            longest = longest if last is None else max(longest, now - last)
            last = now
    return longest


if __name__ == "__main__":
    measured = measure()
    print(json.dumps({**asdict(measured), "ratio": measured.ratio}))
