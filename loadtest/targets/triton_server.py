"""Connections to one Triton server over gRPC, and what it reports about itself.

The messages and the stub are those that `tritonclient` ships; its own asyncio client is not used,
as it (2.73) gives no way to ask for `triton_enable_empty_final_response`, without which a stream's
end cannot be distinguished from a cut connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ...core.errors import BadInputError
from .llmapi import chosen_model, require_llmapi

CONNECTIONS: Final = 16
"""Connections to spread streams over: a Kubernetes Service balances connections, not streams."""
STREAMS_PER_CONNECTION: Final = 100
"""More connections are opened beyond this: proxies commonly allow 100 HTTP/2 streams on each."""

_STREAM: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
_START_TIMEOUT_S: Final = 5.0
_PROBE_TIMEOUT_S: Final = 2.0
_SETTLE_S: Final = 0.05
_CHANNEL_OPTIONS: Final = (
    # gRPC shares one connection among equal channels of a process unless configured otherwise.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)


class Connection:
    """One channel to the server, the streams on it, and whether it may take new ones."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        # Each stream carries one request. As a call with one request it is the same to the server,
        # and costs this process a tenth less than a call with a stream of them.
        self.generate = self._channel.unary_stream(
            _STREAM,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        self.streams = 0
        self.retired = False

    async def live(self) -> bool:
        """Whether the server answers within two seconds, connecting as often as needed."""
        request = service_pb2.ServerLiveRequest()
        try:
            answer = await self.stub.ServerLive(
                request, timeout=_PROBE_TIMEOUT_S, wait_for_ready=True
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.live)

    async def close(self) -> None:
        await self._channel.close()


class Server:
    """A Triton server at `target` (`host:port`) and a pool of connections to it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._connections: list[Connection] = []

    async def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            await connection.close()
        # gRPC still reports ended calls to this event loop: closing it now would leave them to the
        # next one, where they raise.
        await asyncio.sleep(_SETTLE_S)

    async def open(self, streams: int) -> None:
        """Connect for so many streams at once, so that no request waits for a connection.

        Stops at the first that fails: the requests will find out more.
        """
        while len(self._usable()) < min(streams, CONNECTIONS):
            connection = Connection(self.target)
            self._connections.append(connection)
            if not await connection.live():
                return

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """The connection with the fewest streams, for one stream."""
        chosen = min(self._usable(), key=lambda each: each.streams, default=None)
        if chosen is None or chosen.streams >= STREAMS_PER_CONNECTION:
            chosen = Connection(self.target)
            self._connections.append(chosen)
        chosen.streams += 1
        try:
            yield chosen
        finally:
            chosen.streams -= 1
            if chosen.retired and not chosen.streams:
                self._connections.remove(chosen)
                await chosen.close()

    def _usable(self) -> list[Connection]:
        return [connection for connection in self._connections if not connection.retired]

    async def answers(self) -> bool:
        """Whether a new connection reaches a live server (perhaps another one behind the name)."""
        probe = Connection(self.target)
        try:
            return await probe.live()
        finally:
            await probe.close()

    async def check(self, model: str | None) -> tuple[str, frozenset[str]]:
        """The name of the model to use (`model`, or the only one that is ready) and its inputs.

        Raises `BadInputError` where there is no ready server, no such model, no single model, or
        where the model does not stream or lacks the tensors of NVIDIA's `llmapi` model.
        """
        async with self.connection() as connection:
            try:
                await self._require_ready(connection)
                name = chosen_model(
                    f"grpc://{self.target}", model, await self._ready_models(connection)
                )
                request = service_pb2.ModelConfigRequest(name=name)
                answer = await connection.stub.ModelConfig(request, timeout=_START_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise self._unreachable(error) from error
        inputs = frozenset(tensor.name for tensor in answer.config.input)
        require_llmapi(
            f"the model {name!r} at grpc://{self.target}",
            inputs,
            frozenset(tensor.name for tensor in answer.config.output),
            decoupled=answer.config.model_transaction_policy.decoupled,
        )
        return name, inputs

    async def _require_ready(self, connection: Connection) -> None:
        request = service_pb2.ServerReadyRequest()
        answer = await connection.stub.ServerReady(request, timeout=_START_TIMEOUT_S)
        if not answer.ready:
            raise BadInputError(
                f"the Triton server at grpc://{self.target} is not ready: a model is still loading "
                "or has failed to load. Wait for /v2/health/ready, or read the server's log"
            )

    async def _ready_models(self, connection: Connection) -> list[str]:
        request = service_pb2.RepositoryIndexRequest(ready=True)
        answer = await connection.stub.RepositoryIndex(request, timeout=_START_TIMEOUT_S)
        return sorted({model.name for model in answer.models})

    def _unreachable(self, error: grpc.aio.AioRpcError) -> BadInputError:
        return BadInputError(
            f"no Triton server answers at grpc://{self.target} ({describe(error)}). Check that it "
            "runs and that this is its gRPC port (usually 8001; 8000 is HTTP); for one in a "
            "cluster, first run: kubectl port-forward service/NAME 8001:8001"
        )


def describe(error: grpc.aio.AioRpcError) -> str:
    """The status and message of a failed call, on one line."""
    return f"{error.code().name}: {' '.join(str(error.details()).split())}"
