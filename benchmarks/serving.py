"""What the served model costs around its engine, and whether it stays whole under load.

    python benchmarks/serving.py cost      CPU of the server for each token, over a bare model
    python benchmarks/serving.py soak      mixed load with disconnects, cancellations, bad requests
    python benchmarks/serving.py sigterm   streams that SIGTERM cuts

The real tritonserver plays answers at a fixed pace (`--executor scripted`); the bare model is the
least that sends the same tokens at the same pace from Triton's Python backend. Prints one JSON line
with what was measured and what is wanted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import tritonclient.grpc.aio as grpc
from grpc.aio import AioRpcError
from tritonclient.utils import InferenceServerException

from nemotron_deploy.runtime import contract
from nemotron_deploy.tests.e2e.scripted_bundle import tiny_repository
from nemotron_deploy.triton_repo.local import HOST, LocalServer
from nemotron_deploy.triton_repo.openai import Endpoint

MODEL: Final = "tiny"
PIECE: Final = "token "
WANTED: Final = {"cpu_over_bare": 1.10, "openai_over_bare": 2.0, "memory_growth": 0.05}

BARE: Final = f'''
import heapq, threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    """Sends COUNT tokens to every request, PACE seconds apart, from one thread."""

    def initialize(self, args):
        self.due, self.number, self.changed = [], 0, threading.Condition()
        threading.Thread(target=self.run, daemon=True).start()

    def execute(self, requests):
        with self.changed:
            for request in requests:
                self.number += 1
                due = (time.monotonic() // PACE + 1) * PACE
                heapq.heappush(self.due, (due, self.number, COUNT, request.get_response_sender()))
            self.changed.notify()

    def run(self):
        while True:
            with self.changed:
                while not self.due or self.due[0][0] > time.monotonic():
                    self.changed.wait(self.due[0][0] - time.monotonic() if self.due else None)
                due, _, left, sender = heapq.heappop(self.due)
            text = np.array([{PIECE.encode()!r}], dtype=object)
            response = pb_utils.InferenceResponse([pb_utils.Tensor("text_output", text)])
            final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if left == 1 else 0
            sender.send(response, final)
            if left > 1:
                with self.changed:
                    self.number += 1
                    heapq.heappush(self.due, (due + PACE, self.number, left - 1, sender))
'''


@contextmanager
def serving(
    answers: list[dict[str, Any]], bare: str | None = None, openai: Endpoint | None = None
) -> Iterator[LocalServer]:
    """A server of our model that plays `answers`, or of a bare model with the source `bare`; with
    `openai`, OpenAI's endpoint is beside it."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder)
        repository = tiny_repository(bundle, active=64, context=8192)
        if bare is not None:
            (repository / MODEL / "1" / "model.py").write_text(bare)
        script = bundle / "answers.jsonl"
        script.write_text("\n".join(map(json.dumps, answers)))
        with LocalServer(
            repository, executor="scripted", script=script, openai=openai, grace=30
        ) as server:
            server.wait_ready()
            yield server


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    with suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                children = (thread / "children").read_text().split()
                found += [one for child in children for one in descendants(int(child))]
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all below it."""
    ticks = 0
    for one in descendants(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Memory of a process and all below it that is their own: neither files nor shared memory,
    whose share depends on what else runs."""
    total = 0
    for one in descendants(pid):
        with suppress(OSError):
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
            total += sum(map(int, re.findall(r"^Anonymous:\s+(\d+)", text, re.MULTILINE)))
    return total / 1024


def inputs(**values: Any) -> list[Any]:
    """Input tensors by name."""
    types = {tensor.name: tensor.data_type for tensor in contract.INPUTS}
    made = []
    for name, value in values.items():
        element = value.encode() if isinstance(value, str) else value
        array = np.array([element], dtype=types[name].numpy)
        made.append(grpc.InferInput(name, [1], types[name].wire))
        made[-1].set_data_from_numpy(array)
    return made


async def stream(
    client: Any, request_id: str = "", tokens: int = 4000, **values: Any
) -> AsyncIterator[bytes]:
    """The texts of a streamed answer. Raises what the server says."""
    given = {contract.STREAMING.name: True, contract.MAX_TOKENS.name: tokens, **values}

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {
            "model_name": MODEL,
            "request_id": request_id,
            "inputs": inputs(**given),
            "enable_empty_final_response": True,
        }

    responses = client.stream_infer(requests())
    async for result, error in responses:
        if error is not None:
            raise error
        response = result.get_response()
        if response.outputs:
            yield result.as_numpy(contract.TEXT_OUTPUT.name)[0]
        if response.parameters[contract.FINAL_RESPONSE].bool_param:
            return


async def whole(client: Any, **values: Any) -> bytes:
    """A streamed answer, joined."""
    return b"".join([text async for text in stream(client, **values)])


async def burst(server: LocalServer, streams: int) -> int:
    """The tokens of `streams` answers at once."""

    async def count() -> int:
        return len([text async for text in stream(client, text_input="x")])

    async with grpc.InferenceServerClient(server.grpc_url) as client:
        return sum(await asyncio.gather(*(count() for _ in range(streams))))


async def openai_burst(server: LocalServer, streams: int) -> int:
    """The tokens of `streams` answers at once, through OpenAI's API."""
    address = urlsplit(str(server.openai_url))
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True}
    body = json.dumps(chat).encode()
    head = f"POST {address.path}/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"

    async def count() -> int:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(head.encode() + body)
        events = [line async for line in reader if line.startswith(b"data: ")]
        writer.close()
        assert events[-1] == b"data: [DONE]\n", events[-1]
        return len(events) - 2  # nor is the first one, with the role, a token

    return sum(await asyncio.gather(*(count() for _ in range(streams))))


async def cost(streams: int, tokens: int, pace_ms: float, rounds: int) -> dict[str, Any]:
    """CPU of the server for each token: ours, ours through OpenAI's endpoint, and the bare model's
    in turn."""
    answers = [{"when": "", "pieces": [PIECE] * (tokens - 1), "pace_ms": pace_ms}]
    constants = f"PACE, COUNT = {pace_ms / 1000}, {tokens}\n"
    endpoint = Endpoint(MODEL)
    with (
        serving(answers, openai=endpoint) as ours,
        serving(answers, constants + BARE) as bare,
    ):
        measured: dict[str, tuple[Callable[[], Awaitable[int]], list[int]]] = {
            "ours": (lambda: burst(ours, streams), [ours.pid]),
            "openai": (lambda: openai_burst(ours, streams), ours.pids),
            "bare": (lambda: burst(bare, streams), [bare.pid]),
        }
        microseconds: dict[str, list[float]] = {name: [] for name in measured}
        for round_number in range(rounds + 1):
            for name, (run, pids) in measured.items():
                before = sum(map(cpu_seconds, pids))
                sent = await run()
                assert sent == streams * tokens, f"{name}: {sent} tokens"
                if round_number:  # the first one warms up
                    spent = sum(map(cpu_seconds, pids)) - before
                    microseconds[name].append(spent / sent * 1e6)
    per_token = {name: statistics.median(values) for name, values in microseconds.items()}
    return {
        "streams": streams,
        "tokens": tokens,
        "pace_ms": pace_ms,
        "cpu_us_per_token": {name: round(value, 1) for name, value in per_token.items()},
        **over_bare("cpu_over_bare", microseconds["ours"], microseconds["bare"]),
        **over_bare("openai_over_bare", microseconds["openai"], microseconds["bare"]),
        "wanted": [WANTED["cpu_over_bare"], WANTED["openai_over_bare"]],
    }


def over_bare(name: str, ours: list[float], bare: list[float]) -> dict[str, Any]:
    """The median and the range of the ratios of each round."""
    ratios = sorted(one / other for one, other in zip(ours, bare, strict=True))
    return {
        name: round(statistics.median(ratios), 3),
        f"{name}_range": [round(ratios[0], 3), round(ratios[-1], 3)],
    }


ANSWERS: Final = [
    {"when": "long", "pieces": [PIECE] * 1000, "pace_ms": 10},
    {"when": "", "pieces": [PIECE] * 40, "pace_ms": 5},
]
SHORT: Final = PIECE.encode() * 40


class Soak:
    """Clients that do to a server what clients do."""

    def __init__(self, server: LocalServer, seconds: float, seed: int) -> None:
        self._server = server
        self._seconds = seconds
        self._seed = seed
        self._counts: Counter[str] = Counter()
        self._end = time.monotonic() + seconds
        self._kinds = (self.answered, self.answered, self.leaves, self.cancels, self.refused)

    async def run(self, clients: int) -> dict[str, Any]:
        """Let `clients` of them work, and say what came of it."""
        samples = asyncio.create_task(self._memory())
        await asyncio.gather(*(self._work(number) for number in range(clients)))
        memory = await samples
        warm, last = memory[len(memory) // 4 : len(memory) // 2], memory[-len(memory) // 4 :]
        before, after = statistics.mean(warm), statistics.mean(last)
        failed = {name: n for name, n in self._counts.items() if name.startswith("failed")}
        return {
            "seconds": self._seconds,
            "clients": clients,
            "requests": dict(sorted(self._counts.items())),
            "failed": sum(failed.values()),
            "sequences_left": await settled(self._server),
            "memory_mb": [round(before, 1), round(after, 1)],
            "memory_growth": round(after / before - 1, 4),
            "wanted": {"failed": 0, "sequences_left": 0, "memory_growth": WANTED["memory_growth"]},
        }

    async def answered(self, client: Any, _: str) -> None:
        """A request that is answered whole."""
        assert await whole(client, text_input="short") == SHORT, "another answer"

    async def leaves(self, client: Any, _: str) -> None:
        """A client whose connection closes after the first token."""
        async with grpc.InferenceServerClient(self._server.grpc_url) as own:
            async for _text in stream(own, text_input="long"):
                break

    async def cancels(self, client: Any, name: str) -> None:
        """A request that is cancelled by its id after the first token."""
        try:
            async for _text in stream(client, request_id=name, text_input="long"):
                async for _stopped in stream(client, request_id=name, stop=True):
                    pass
        except InferenceServerException:
            return
        raise AssertionError("not cancelled")

    async def refused(self, client: Any, _: str) -> None:
        """A bad request."""
        try:
            await whole(client, text_input="short", sampling_param_top_p=2.0)
        except InferenceServerException:
            return
        raise AssertionError("a bad request was answered")

    async def _work(self, number: int) -> None:
        choose = random.Random(self._seed * 1000 + number)
        async with grpc.InferenceServerClient(self._server.grpc_url) as client:
            while time.monotonic() < self._end:
                kind = choose.choice(self._kinds)
                self._counts[f"sent {kind.__name__}"] += 1
                name = f"a-request-that-can-be-stopped-{number}-{self._counts.total()}"
                try:
                    await kind(client, name)
                except (AssertionError, InferenceServerException, AioRpcError) as error:
                    self._counts[f"failed {kind.__name__}: {error}"[:100]] += 1

    async def _memory(self) -> list[float]:
        """MB, once a second."""
        samples = []
        while time.monotonic() < self._end:
            samples.append(memory_mb(self._server.pid))
            await asyncio.sleep(1)
        return samples


async def settled(server: LocalServer, within: float = 10.0) -> float:
    """Sequences and requests that the server still has after at most `within` seconds."""
    deadline = time.monotonic() + within
    while (left := await asyncio.to_thread(occupied, server)) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    return left


def occupied(server: LocalServer) -> float:
    """Running sequences and waiting requests, by the server's own metrics."""
    with urllib.request.urlopen(f"http://{HOST}:{server.metrics_port}/metrics") as response:
        text = response.read().decode()
    names = f"{contract.RUNNING.name}|{contract.WAITING.name}"
    return sum(float(value) for value in re.findall(rf"^(?:{names})\{{.*\}} (\S+)$", text, re.M))


async def sigterm(server: LocalServer, streams: int, tokens: int) -> dict[str, Any]:
    """Send SIGTERM when every stream has begun; which answers come whole."""
    begun = asyncio.Semaphore(0)

    async def answer() -> bool:
        texts = []
        try:
            async for text in stream(client, text_input="x"):
                texts.append(text)
                if len(texts) == 10:
                    begun.release()
        except (InferenceServerException, AioRpcError):
            return False
        return len(texts) == tokens

    async with grpc.InferenceServerClient(server.grpc_url) as client:
        tasks = [asyncio.create_task(answer()) for _ in range(streams)]
        for _ in range(streams):
            await begun.acquire()
        os.kill(server.pid, signal.SIGTERM)
        complete = sum(await asyncio.gather(*tasks))
    return {"streams": streams, "lost": streams - complete, "wanted": 0}


def main() -> None:
    """Run one benchmark and print its line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("cost", "soak", "sigterm"))
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--pace-ms", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    paced = [{"when": "", "pieces": [PIECE] * (given.tokens - 1), "pace_ms": given.pace_ms}]
    if given.what == "cost":
        measured = asyncio.run(cost(given.streams, given.tokens, given.pace_ms, given.rounds))
    elif given.what == "soak":
        with serving(ANSWERS) as server:
            measured = asyncio.run(Soak(server, given.minutes * 60, given.seed).run(given.streams))
    else:
        with serving(paced) as server:
            measured = asyncio.run(sigterm(server, given.streams, given.tokens))
    machine = {"cpus": os.cpu_count(), "date": datetime.now(UTC).date().isoformat()}
    print(json.dumps({"benchmark": given.what, **measured, **machine}))


if __name__ == "__main__":
    main()
