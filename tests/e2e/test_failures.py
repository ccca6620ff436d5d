"""Clients that disconnect and clients that do not read, with the real tritonserver.

One server, which plays a script, for all of it.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton

from nemotron_deploy.benchmarks.serving import occupied
from nemotron_deploy.tests.e2e.scripted_bundle import scripted_bundle
from nemotron_deploy.tests.e2e.streams import stream, tensors
from nemotron_deploy.triton_repo import local

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(local.unavailable() is not None, reason=str(local.unavailable())),
]

TOKENS = 40
PIECES = 100
BIG = "x" * 100_000
LIMITS: dict[str, Any] = {"streaming": True, "sampling_param_max_tokens": 1000}
SCRIPT: list[dict[str, Any]] = [
    {"when": "long", "pieces": ["y "] * TOKENS, "pace_ms": 5},
    {"when": "large", "pieces": [BIG] * PIECES},
    {"when": "", "pieces": ["quick"]},
]

Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.LocalServer]:
    bundle = scripted_bundle(tmp_path_factory.mktemp("bundle"), SCRIPT, 16)
    with local.LocalServer(
        bundle.repository, executor="scripted", script=bundle.script, grace=5
    ) as running:
        running.wait_ready()
        yield running


def processes(server: local.LocalServer) -> set[int]:
    """The server and all that it started."""
    found, left = set(), [server.pid]
    while left:
        pid = left.pop()
        found.add(pid)
        for task in Path(f"/proc/{pid}/task").iterdir():
            left += map(int, (task / "children").read_text().split())
    return found


def memory(server: local.LocalServer) -> int:
    """The kilobytes of memory that belong to the server's processes alone."""
    texts = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in processes(server))
    found = (re.search(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE) for text in texts)
    return sum(int(one[1]) for one in found if one)


def regions(server: local.LocalServer) -> dict[str, int]:
    """The server's regions of shared memory, with their bytes."""
    found = Path("/dev/shm").glob(f"{server._processes._region_prefix}*")
    return {path.name: path.stat().st_size for path in found}


async def texts(url: str, prompt: str) -> list[bytes]:
    async with triton.InferenceServerClient(url) as client:
        given = stream(client, text_input=prompt, **LIMITS)
        return [response["text_output"] async for response in given]


async def hang_up(url: str, tokens: int) -> None:
    """Cancel a gRPC stream after so many tokens."""
    async with triton.InferenceServerClient(url) as client:
        responses = stream(client, text_input="long", **LIMITS)
        for _ in range(tokens):
            await anext(responses)


def request(server: local.LocalServer, prompt: str) -> socket.socket:
    """An open connection on which a streamed answer is being sent."""
    body = json.dumps({"text_input": prompt, **LIMITS})
    head = "POST /v2/models/tiny/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.http_port))
    connection.sendall(f"{head}: {len(body)}\r\n\r\n{body}".encode())
    return connection


def reset(server: local.LocalServer, pieces: int) -> None:
    """Reset an HTTP connection after it has been read so many times."""
    with request(server, "long") as connection:
        for _ in range(pieces):
            connection.recv(4096)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_disconnects_leave_nothing_behind(
    server: local.LocalServer, eventually: Eventually
) -> None:
    """Streams that are closed at random tokens: no process ends, no sequence and no shared memory
    is left, and the memory does not grow."""
    choose = random.Random(7)

    async def storm() -> None:
        async def client() -> None:
            for _ in range(8):
                await hang_up(server.grpc_url, choose.randrange(TOKENS + 1))
                await asyncio.to_thread(reset, server, choose.randrange(4))

        await asyncio.gather(*(client() for _ in range(8)))

    def round_of_clients() -> int:
        asyncio.run(storm())
        eventually(lambda: not occupied(server), "sequences are left")
        return memory(server)

    before = processes(server)
    used = [round_of_clients() for _ in range(2)]
    shared = regions(server)
    used += [round_of_clients() for _ in range(2)]
    assert processes(server) == before
    assert regions(server) == shared
    assert used[-1] < 1.1 * used[1]
    assert asyncio.run(texts(server.grpc_url, "quick")) == [b"quick", b""]


def test_a_reader_that_stalls_delays_nobody(server: local.LocalServer) -> None:
    """Answers that nobody reads fill every buffer on the way; others are answered meanwhile, and
    the stalled reader gets its answer whole when it reads on."""

    async def run() -> list[bytes]:
        async with triton.InferenceServerClient(server.grpc_url) as client:
            stalled = stream(client, text_input="large", **LIMITS)
            first = (await anext(stalled))["text_output"]
            for _ in range(3):
                assert await texts(server.grpc_url, "quick") == [b"quick", b""]
            return [first, *[response["text_output"] async for response in stalled]]

    with request(server, "large") as connection:
        assert connection.recv(64).startswith(b"HTTP/1.1 200")
        assert asyncio.run(run()) == [BIG.encode()] * PIECES + [b""]
        rest = 0
        while (data := connection.recv(2**16)) and not data.endswith(b"0\r\n\r\n"):
            rest += len(data)
        assert rest > PIECES * len(BIG)


def test_a_reader_that_stalls_may_leave(server: local.LocalServer, eventually: Eventually) -> None:
    before = processes(server)
    with request(server, "large") as connection:
        connection.recv(64)
        asyncio.run(_leave_unread(server.grpc_url))
    eventually(lambda: not occupied(server), "sequences are left")
    assert processes(server) == before


async def _leave_unread(url: str) -> None:
    async with triton.InferenceServerClient(url) as client:
        await anext(stream(client, text_input="large", **LIMITS))


def test_inputs_that_reach_beyond_the_server_do_not_exist(server: local.LocalServer) -> None:
    """Later versions of NVIDIA's model take a path on the server and a URL that it fetches."""

    def given(name: str) -> Any:
        unknown = triton.InferInput(name, [1], "BYTES")
        unknown.set_data_from_numpy(np.array([b"file:///etc/passwd"], dtype=object))
        return [*tensors(text_input="quick", **LIMITS), unknown]

    async def said(name: str) -> str:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": "tiny", "inputs": given(name)}

        async with triton.InferenceServerClient(server.grpc_url) as client:
            ((_, error),) = [answer async for answer in client.stream_infer(requests())]
            return str(error)

    for name in ("lora_path", "image_url"):
        assert f"unexpected inference input '{name}'" in asyncio.run(said(name))
