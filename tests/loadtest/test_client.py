from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from nemotron_deploy.loadtest.client import Client
from nemotron_deploy.loadtest.client_clock import StampingSelector
from nemotron_deploy.loadtest.prompts import Work
from nemotron_deploy.loadtest.sample import Kind, Sample
from nemotron_deploy.loadtest.sender import Destination
from nemotron_deploy.loadtest.targets.triton_grpc import TritonGrpc
from nemotron_deploy.loadtest.targets.triton_server import Connection, Server

WORK = Work("x", 8)


class LosingCall:
    """FAKE of grpc.aio.UnaryStreamCall (grpcio 1.85.1, grpc/aio/_call.py) as it was seen to be
    when a server dies under it: the task's cancellation ends in the call, which then fails."""

    def __init__(self, requests: Any) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            empty = grpc.aio.Metadata()
            code = grpc.StatusCode.UNAVAILABLE
            raise grpc.aio.AioRpcError(code, empty, empty, "refused") from None
        yield

    def cancel(self) -> None:
        pass


@pytest.fixture
def losing_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: Connection, target: str) -> None:
        self.generate = LosingCall
        self.streams, self.retired = 0, False

    async def close(self: Connection) -> None:
        pass

    monkeypatch.setattr(Connection, "__init__", connect)
    monkeypatch.setattr(Connection, "close", close)


@pytest.mark.usefixtures("losing_connection")
def test_a_cancellation_that_grpc_loses_still_cancels() -> None:
    async def cancelled() -> bool:
        client = Client(TritonGrpc("localhost:1"), Destination("localhost:1"), StampingSelector())
        now = time.perf_counter()
        request = asyncio.create_task(client.send(WORK, now, now, samples.append))
        await asyncio.sleep(0.01)
        request.cancel()
        await asyncio.wait((request,), timeout=10)
        return request.cancelled()

    samples: list[Sample] = []
    assert asyncio.run(cancelled())
    (sample,) = samples
    assert sample.failure is not None
    assert sample.failure.kind is Kind.UNFINISHED


@pytest.mark.usefixtures("losing_connection")
def test_a_timeout_that_grpc_loses_is_still_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def alive(self: Server) -> bool:
        return True

    async def send() -> None:
        destination = Destination("localhost:1", timeout_s=0.05)
        now = time.perf_counter()
        client = Client(TritonGrpc("localhost:1"), destination, StampingSelector())
        await client.send(WORK, now, now, samples.append)

    monkeypatch.setattr(Server, "answers", alive)
    samples: list[Sample] = []
    asyncio.run(send())
    (sample,) = samples
    assert sample.failure is not None
    assert sample.failure.kind is Kind.TIMEOUT
    assert sample.failure.message == "no complete answer within 0.05 s"
