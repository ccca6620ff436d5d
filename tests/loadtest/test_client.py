from __future__ import annotations

import asyncio
import socket
import time

import pytest

from nemotron_deploy.loadtest import LoadTest
from nemotron_deploy.loadtest.client import Client
from nemotron_deploy.loadtest.server import Server


@pytest.mark.parametrize("listening", [True, False], ids=["silent", "refused"])
def test_a_cancellation_is_never_lost(listening: bool) -> None:
    """Cancelled after any number of steps of the loop, a request ends as cancelled."""

    async def cancel_after(steps: int, target: str) -> bool:
        async with Server(target) as server:
            client = Client(server, "mock", LoadTest(prompts=["x"]))
            request = asyncio.create_task(client.send("x", time.perf_counter()))
            for _ in range(steps):
                await asyncio.sleep(0)
            request.cancel()
            await asyncio.wait((request,), timeout=10)
            return request.done() and request.cancelled()

    async def cancel_everywhere(target: str) -> list[int]:
        return [steps for steps in range(40) if not await cancel_after(steps, target)]

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen()
        target = f"127.0.0.1:{server.getsockname()[1]}"
        assert asyncio.run(cancel_everywhere(target)) == []
