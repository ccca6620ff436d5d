"""Triton's own protocol: a decoupled model over a gRPC stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2

from ...runtime import contract
from ...runtime.openai.upstream import raise_lost_cancellation, read_to_end
from ..sample import Kind
from .base import Piece, Request, RequestFailedError
from .triton_server import Connection, Server, describe

_DRAINING: Final = "has no available versions"

_KINDS: Final = {
    grpc.StatusCode.UNAVAILABLE: Kind.UNREACHABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Kind.OVERLOADED,
    grpc.StatusCode.INVALID_ARGUMENT: Kind.REJECTED,
    grpc.StatusCode.NOT_FOUND: Kind.REJECTED,
    grpc.StatusCode.UNIMPLEMENTED: Kind.REJECTED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Kind.TIMEOUT,
}


class TritonGrpc:
    """A model with the tensors of NVIDIA's `llmapi` model, on the server at `host:port`."""

    deltas = False

    def __init__(self, target: str) -> None:
        self.url = f"grpc://{target}"
        self._server = Server(target)
        self._model = ""
        self._inputs: frozenset[str] = frozenset()

    async def check(self, model: str | None) -> str:
        """See `Target`."""
        self._model, self._inputs = await self._server.check(model)
        return self._model

    async def open(self, streams: int) -> None:
        """See `Target`."""
        await self._server.open(streams)

    async def answers(self) -> bool:
        """See `Target`."""
        return await self._server.answers()

    async def close(self) -> None:
        """See `Target`."""
        await self._server.close()

    async def stream(
        self, request: Request, on_send: Callable[[], None]
    ) -> AsyncGenerator[Piece, None]:
        """See `Target`."""
        message = self._message(request)
        async with self._server.connection() as connection:
            on_send()
            try:
                async for piece in _pieces(connection, message):
                    yield piece
            except grpc.aio.AioRpcError as error:
                raise_lost_cancellation()
                kind = _KINDS.get(error.code(), Kind.SERVER)
                refused = kind is Kind.UNREACHABLE
                connection.retired = connection.retired or refused
                raise RequestFailedError(kind, describe(error), refused=refused) from error
            except RequestFailedError as failure:
                # A connection stays with its pod: while that one drains, only a new one helps.
                connection.retired = connection.retired or failure.refused
                raise

    def _message(self, request: Request) -> Any:
        message = service_pb2.ModelInferRequest(model_name=self._model, id=request.id)
        message.parameters["triton_enable_empty_final_response"].bool_param = True
        # The model is served without a batch dimension: every shape is [1].
        for sent, contents in (
            (contract.TEXT_INPUT, {"bytes_contents": [request.whole_prompt.encode()]}),
            (contract.STREAMING, {"bool_contents": [True]}),
            (contract.MAX_TOKENS, {"int_contents": [request.max_tokens]}),
            (contract.EXCLUDE_INPUT, {"bool_contents": [True]}),
            (contract.IGNORE_EOS, {"bool_contents": [request.ignore_eos]}),
            (contract.RETURN_PERF_METRICS, {"bool_contents": [True]}),
        ):
            if sent.optional and sent.name not in self._inputs:
                continue
            tensor = message.inputs.add(name=sent.name, datatype=sent.data_type.wire, shape=[1])
            tensor.contents.CopyFrom(service_pb2.InferTensorContents(**contents))
        return message


async def _pieces(connection: Connection, message: Any) -> AsyncIterator[Piece]:
    call = connection.generate(message)
    final = False
    try:
        async for answer in call:
            if answer.error_message:
                await read_to_end(call)
                refused = _DRAINING in answer.error_message
                kind = Kind.UNREACHABLE if refused else Kind.SERVER
                raise RequestFailedError(kind, answer.error_message, refused=refused)
            if final:
                raise RequestFailedError(Kind.GARBAGE, "a response came after the final response")
            response = answer.infer_response
            final = response.parameters[contract.FINAL_RESPONSE].bool_param
            try:
                piece = read_piece(response)
            except (IndexError, ValueError) as error:
                raise RequestFailedError(
                    Kind.GARBAGE, f"a response cannot be read ({error})"
                ) from error
            yield piece
    finally:
        call.cancel()
    if not final:
        raise RequestFailedError(Kind.CLOSED, "the stream was closed before its final response")


def read_piece(response: Any) -> Piece:
    """What a response of the model holds (a final response may carry no tensor).

    Raises `ValueError` or `IndexError` for tensors that are not of their type.
    """
    outputs = response.outputs
    if len(outputs) == 1 and outputs[0].name == contract.TEXT_OUTPUT.name:  # most responses
        return Piece(_text(response.raw_output_contents[0]))
    raw = {output.name: response.raw_output_contents[index] for index, output in enumerate(outputs)}

    def number(tensor: contract.Tensor) -> int | None:
        data = raw.get(tensor.name)
        return int.from_bytes(data, "little") if data else None

    arrived, scheduled = number(contract.ARRIVAL_TIME), number(contract.FIRST_SCHEDULED_TIME)
    return Piece(
        text=_text(raw.get(contract.TEXT_OUTPUT.name, b"")),
        reasoning=_text(raw.get(contract.REASONING_CONTENT.name, b"")),
        output_tokens=number(contract.OUTPUT_COUNT),
        prompt_tokens=number(contract.INPUT_COUNT),
        queue=(scheduled - arrived) / 1e9 if arrived and scheduled else None,
    )


def _text(raw: bytes) -> str:
    """The text in a tensor of at most one element, which follows its length in 4 bytes."""
    if not raw:
        return ""
    length = int.from_bytes(raw[:4], "little")
    if len(raw) != 4 + length:
        raise ValueError(f"a text of {length} bytes has {len(raw) - 4}")
    return raw[4:].decode(errors="replace")
