"""The served model over gRPC: one stream for each generation, which ends when its reader does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .. import contract
from ..contract import DataType
from ..generation import Failure, Usage
from .errors import ApiError
from .request import CHAT_FIELDS, TEXT_FIELDS, Inputs
from .spans import Metadata

HEALTH_TIMEOUT_S: Final = 2.0
END_TIMEOUT_S: Final = 1.0

CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)
"""Without gRPC's own limit of 4 MB. Prompts are limited by the endpoint and the model."""

_RECONNECTING: Final = tuple(
    (f"grpc.{which}_reconnect_backoff_ms", 1000) for which in ("initial", "min", "max")
)
"""The server is in the same pod. While it loads its model, gRPC's own pause between two attempts
would grow to two minutes, and by as much the endpoint would be ready later than the server."""

_CONTENTS: Final = {
    DataType.STRING: "bytes_contents",
    DataType.BOOL: "bool_contents",
    DataType.INT32: "int_contents",
    DataType.UINT64: "uint64_contents",
    DataType.FP32: "fp32_contents",
}

_REASONS: Final = {
    Failure.INVALID: (400, "invalid_value"),
    Failure.UNAVAILABLE: (503, "overloaded"),
    Failure.CANCELLED: (500, "cancelled"),
    Failure.DEADLINE: (504, "timeout"),
    Failure.INTERNAL: (500, "internal_error"),
}
"""HTTP status and code for a failure of the model."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One response of the model: what it adds to the answer. `calls` and `logprobs` are in OpenAI's
    form; `finish` and `usage` come with the last one."""

    text: str = ""
    reasoning: str = ""
    calls: Sequence[Any] = ()
    logprobs: Sequence[Any] = ()
    finish: str | None = None
    usage: Usage | None = None


class Upstream:
    """The model `model` of the Triton server at `address` (`host:port`). Made, used and closed in
    one event loop."""

    def __init__(self, address: str, model: str) -> None:
        self.model = model
        self._channel = grpc.aio.insecure_channel(
            address, options=(*CHANNEL_OPTIONS, *_RECONNECTING)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def ready(self) -> bool:
        """Whether the model takes requests now."""
        try:
            answer = await self._stub.ModelReady(
                service_pb2.ModelReadyRequest(name=self.model), timeout=HEALTH_TIMEOUT_S
            )
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.ready)

    async def generate(
        self, inputs: Inputs, request_id: str, metadata: Metadata = ()
    ) -> AsyncIterator[Piece]:
        """The pieces of one answer. Closing the iterator stops the generation.

        `metadata` accompanies the call.

        Raises `ApiError` for what the model or the connection reports.
        """
        request = model_request(self.model, inputs, request_id)
        call = self._stub.ModelStreamInfer((request,), metadata=metadata)
        final = False
        try:
            async for message in call:
                if message.error_message:
                    await read_to_end(call)
                    raise failure(message.error_message)
                response = message.infer_response
                if response.outputs:
                    yield read_piece(response)
                # The server closes the stream after its last response. Cancelling it in between
                # would be counted as a client that hung up.
                final = final or response.parameters[contract.FINAL_RESPONSE].bool_param
        except grpc.aio.AioRpcError as broken:
            raise_lost_cancellation()
            raise unreachable(broken) from broken
        finally:
            call.cancel()
        if not final:
            raise ApiError(500, "the model ended without its last response", "internal_error")

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


async def read_to_end(call: Any) -> None:
    """Let the server end a stream on which it reported an error, for a second at most.

    Triton 2.51 never unloads a model again if a client cancels a stream at that moment.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(END_TIMEOUT_S):
            async for _ in call:
                pass


def raise_lost_cancellation() -> None:
    """Cancel the task anew where gRPC reported a failed call in place of its cancellation.

    A cancellation that meets a call still being set up ends in gRPC's own task (grpcio 1.85).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def model_request(model: str, inputs: Inputs, request_id: str) -> Any:
    """One generation as the message of a stream."""
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    request.parameters[contract.ERROR_CODES].bool_param = True
    for tensor, elements in inputs.items():
        sent = request.inputs.add(
            name=tensor.name, datatype=tensor.data_type.wire, shape=[len(elements)]
        )
        getattr(sent.contents, _CONTENTS[tensor.data_type]).extend(elements)
    return request


def read_piece(response: Any) -> Piece:
    """What a response of the model holds."""
    outputs = response.outputs
    if len(outputs) == 1 and outputs[0].name == contract.TEXT_OUTPUT.name:  # most responses
        return Piece(_text(response.raw_output_contents[0]))
    raw: dict[str, bytes] = {
        output.name: data
        for output, data in zip(outputs, response.raw_output_contents, strict=True)
    }

    def text(tensor: contract.Tensor) -> str:
        return _text(raw.get(tensor.name, b""))

    def count(tensor: contract.Tensor) -> int:
        return int.from_bytes(raw.get(tensor.name, b""), "little")

    usage = None
    if contract.OUTPUT_COUNT.name in raw:
        usage = Usage(
            count(contract.INPUT_COUNT),
            count(contract.OUTPUT_COUNT),
            count(contract.REASONING_COUNT),
        )
    return Piece(
        text=text(contract.TEXT_OUTPUT),
        reasoning=text(contract.REASONING_CONTENT),
        calls=json.loads(text(contract.TOOL_CALLS) or "[]"),
        logprobs=json.loads(text(contract.OUTPUT_LOGPROBS) or '{"content": []}')["content"],
        finish=text(contract.FINISH_REASON) or None,
        usage=usage,
    )


def _text(raw: bytes) -> str:
    """The text in a tensor of one element, which follows its length in 4 bytes."""
    return raw[4:].decode(errors="replace")


_FIELD_OF: Final = {
    **{tensor.name: name for name, (tensor, _) in (*TEXT_FIELDS.items(), *CHAT_FIELDS.items())},
    contract.MAX_TOKENS.name: "max_tokens",
    contract.THINKING_BUDGET.name: contract.THINKING_BUDGET.name,
    contract.TEXT_INPUT.name: "prompt",
    contract.INPUT_IDS.name: "prompt",
}
"""The field that a tensor came from; of two names, the first."""

_TENSOR_NAME: Final = re.compile(rf"\b({'|'.join(_FIELD_OF)})\b")


def failure(message: str) -> ApiError:
    """What the server reports on a stream, with the client's own names of the fields."""
    name, _, rest = message.partition(": ")
    known = {failure.value: reason for failure, reason in _REASONS.items()}
    if name not in known:  # Triton's own: the model is not there, or its process has died
        return ApiError(503, message, "unavailable")
    status, code = known[name]
    first = _TENSOR_NAME.match(rest) if status == 400 else None
    text = _TENSOR_NAME.sub(lambda found: _FIELD_OF[found[0]], rest) if status == 400 else rest
    return ApiError(status, text, code, _FIELD_OF[first[0]] if first else None)


def unreachable(error: Any) -> ApiError:
    """A call that failed as such."""
    message = f"the server of the model cannot be reached ({error.code().name}: {error.details()})"
    return ApiError(503, " ".join(message.split()), "unavailable")
