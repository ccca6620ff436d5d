"""One streamed request, measured."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from ..runtime import contract
from ..runtime.openai.upstream import raise_lost_cancellation, read_to_end
from .config import LoadTest
from .sample import Sample, Transcript
from .server import Connection, Server, describe

_RETRY_PAUSE_S: Final = 0.2
_DRAINING: Final = "has no available versions"
_MESSAGE_LENGTH: Final = 300


class _FailedError(Exception):
    """A request failed. `unreachable`: the connection, or the server behind it, turned it away."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message[:_MESSAGE_LENGTH])
        self.unreachable = unreachable


class Client:
    """Sends requests of a test to a model and measures them. For one event loop.

    `died` is set once a request failed and the server could then not be reached at all; `death`
    says which failure that was.
    """

    def __init__(self, server: Server, model: str, test: LoadTest) -> None:
        self._server, self._model, self._test = server, model, test
        self._ids = itertools.count()
        self._run_id = secrets.token_hex(4)  # two tests of one server must not share request ids
        self._probing = asyncio.Lock()
        self.died = asyncio.Event()
        self.death = ""

    async def send(self, prompt: str, due: float) -> Sample:
        """Send `prompt` now and count its latencies from `due`, in `time.perf_counter` seconds.

        A failure is a sample with `error`, never an exception.
        """
        retries, transcript = 0, Transcript(keep_text=self._test.count_tokens is not None)
        error, suspicious = None, False
        try:
            async with asyncio.timeout(self._test.timeout_s):
                try:
                    await self._attempt(prompt, due, transcript)
                except _FailedError as failure:
                    # Nothing was generated yet, so nothing can be generated twice.
                    if not failure.unreachable or transcript.arrivals:
                        raise
                    retries = 1
                    await asyncio.sleep(_RETRY_PAUSE_S)
                    await self._attempt(prompt, due, transcript)
        except _FailedError as failure:
            error, suspicious = str(failure), failure.unreachable
        except TimeoutError:
            error, suspicious = f"no complete answer within {self._test.timeout_s:g} s", True
        if error is None and not transcript.arrivals:
            error = "the model ended without any text"
        ended = time.perf_counter() - due
        if error is not None and suspicious:
            await self._probe(error)
        return transcript.finish(ended=ended, retries=retries, error=error)

    async def _probe(self, error: str) -> None:
        async with self._probing:
            if not self.died.is_set() and not await self._server.answers():
                self.death = error
                self.died.set()

    async def _attempt(self, prompt: str, due: float, transcript: Transcript) -> None:
        async with self._server.connection() as connection:
            try:
                await self._stream(connection, prompt, due, transcript)
            except grpc.aio.AioRpcError as error:
                raise_lost_cancellation()
                unreachable = error.code() is grpc.StatusCode.UNAVAILABLE
                connection.retired = connection.retired or unreachable
                raise _FailedError(describe(error), unreachable=unreachable) from error
            except _FailedError as failure:
                # A connection stays with its pod: while that one drains, only a new one helps.
                connection.retired = connection.retired or failure.unreachable
                raise

    async def _stream(
        self, connection: Connection, prompt: str, due: float, transcript: Transcript
    ) -> None:
        call = connection.stub.ModelStreamInfer((self._request(prompt),))
        final = False
        try:
            async for message in call:
                now = time.perf_counter()
                if message.error_message:
                    await read_to_end(call)
                    text = " ".join(message.error_message.split())
                    raise _FailedError(text, unreachable=_DRAINING in text)
                response = message.infer_response
                transcript.add(_text_output(response), now - due)
                final = final or response.parameters[contract.FINAL_RESPONSE].bool_param
        finally:
            call.cancel()
        if not final:
            raise _FailedError("the stream was closed before its final response")

    def _request(self, prompt: str) -> Any:
        request = service_pb2.ModelInferRequest(
            model_name=self._model, id=f"loadtest-{self._run_id}-{next(self._ids)}"
        )
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        # The model is served without a batch dimension: every shape is [1].
        for sent, contents in (
            (contract.TEXT_INPUT, {"bytes_contents": [prompt.encode()]}),
            (contract.STREAMING, {"bool_contents": [True]}),
            (contract.MAX_TOKENS, {"int_contents": [self._test.max_tokens]}),
            (contract.EXCLUDE_INPUT, {"bool_contents": [True]}),
        ):
            tensor = request.inputs.add(name=sent.name, datatype=sent.data_type.wire, shape=[1])
            tensor.contents.CopyFrom(service_pb2.InferTensorContents(**contents))
        return request


def _text_output(response: Any) -> str:
    """The text of one response, or "" (a final response carries no tensor)."""
    for index, tensor in enumerate(response.outputs):
        if tensor.name == contract.TEXT_OUTPUT.name:
            values = deserialize_bytes_tensor(response.raw_output_contents[index])
            return bytes(values[0]).decode(errors="replace") if len(values) else ""
    return ""
