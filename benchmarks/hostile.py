"""How long bystanders wait for a token while a hostile client sends huge prompts without pause.

Run as `python -m nemotron_deploy.benchmarks.hostile`: a real tritonserver, the executor `scripted`,
and a context so long that the prompts are tokenized before they are refused.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tritonclient.grpc.aio as triton

from .. import triton_repo
from ..model import catalog
from ..model.spec import Deployment
from ..triton_repo.local import LocalServer

PROMPT_BYTES: Final = 7_900_000
CONTEXT: Final = 1_000_000
PACE_MS: Final = 20


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
        repository, script = _bundle(Path(folder), tokens)
        with LocalServer(repository, executor="scripted", script=script, grace=1) as server:
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
                async for _ in client.stream_infer(_requests(prompt)):
                    self.answered += 1
                    break


async def _longest_gap(url: str) -> float:
    longest, last = 0.0, None
    async with triton.InferenceServerClient(url) as client:
        async for result, error in client.stream_infer(_requests(b"bystander")):
            if error is not None:
                raise error
            now = time.monotonic()
            longest = longest if last is None else max(longest, now - last)
            last = now
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
    return longest


async def _requests(prompt: bytes) -> AsyncIterator[dict[str, Any]]:
    inputs = []
    for name, kind, value in (
        ("text_input", "BYTES", np.array([prompt], dtype=object)),
        ("streaming", "BOOL", np.array([True])),
        ("sampling_param_max_tokens", "INT32", np.array([100_000], dtype=np.int32)),
    ):
        inputs.append(triton.InferInput(name, [1], kind))
        inputs[-1].set_data_from_numpy(value)
    yield {"model_name": "tiny", "inputs": inputs, "enable_empty_final_response": True}


def _bundle(folder: Path, tokens: int) -> tuple[Path, Path]:
    """A bundle around the embedded checkpoint, and the script of the bystanders."""
    shutil.copytree(catalog.TINY, folder / "checkpoint")
    (folder / "engine").mkdir()
    (folder / "engine" / "llm_args.yaml").write_text(f"max_seq_len: {CONTEXT}\n")
    repository = folder / "model_repository"
    repository.mkdir()
    triton_repo.emit(
        repository,
        Deployment(
            name="tiny", model_name="tiny", image="none", gpu=catalog.gpu("h100"), gpus=1,
            quant="bf16", bundle_bytes=1, max_batch_size=64,
        ),
    )  # fmt: skip
    script = folder / "answers.jsonl"
    answer = {"when": "bystander", "pieces": ["x "] * tokens, "pace_ms": PACE_MS}
    script.write_text(json.dumps(answer))
    return repository, script


if __name__ == "__main__":
    measured = measure()
    print(json.dumps({**asdict(measured), "ratio": measured.ratio}))
