"""A FAKE Triton server: speaks the real protocol over a real socket, generates nothing."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from nemotron_deploy.tests.loadtest.starting import started

INPUTS = ("text_input", "streaming", "sampling_param_max_tokens")


def bytes_tensor(text: str) -> bytes:
    """Triton's raw BYTES tensor of one element: its length in 4 bytes, then the text."""
    return len(text.encode()).to_bytes(4, "little") + text.encode()


@dataclass
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """FAKE. Method signatures: tritonclient 2.73.0 (PyPI), tritonclient/grpc/service_pb2_grpc.py,
    GRPCInferenceServiceServicer; messages: service_pb2.py of the same. Its error texts are those
    of a tritonserver 2.51.0.

    All requests after the first `hang_after` hang. A prompt is a JSON object:
    `texts` (one response each), `gap_s`, `raw` (a tensor's bytes in
    base64, sent after the texts), `error` (sent after that), `hang` (never ends, after `error`
    too), `cut` (ends without a final response), `die` (the server stops), `tokens` (the final
    response counts so many), `finals` (so many final responses).
    `hanging` is set once a prompt hangs, `cancelled` once it was given up.
    """

    ready: bool = True
    models: tuple[str, ...] = ("mock",)
    inputs: tuple[str, ...] = INPUTS
    decoupled: bool = True
    drain: int = 0
    hang_after: int | None = None
    drain_first_peer: bool = False
    serial: bool = False
    peers: list[str] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    hanging: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    server: Any = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.server = grpc.server(ThreadPoolExecutor(64 if self.serial else 16))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def stop(self) -> None:
        self.server.stop(grace=0)

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802 (the protocol's name)
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=self.ready)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        index = service_pb2.RepositoryIndexResponse()
        for name in self.models:
            index.models.add(name=name, version="1", state="READY")
        return index

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        config = model_config_pb2.ModelConfig(name=request.name)
        config.model_transaction_policy.decoupled = self.decoupled
        for name in self.inputs:
            config.input.add(name=name)
        config.output.add(name="text_output")
        return service_pb2.ModelConfigResponse(config=config)

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        for request in requests:
            self.seen.append(request)
            self.peers.append(context.peer())
            pinned = self.drain_first_peer and self.peers[0] == self.peers[-1]
            if self.drain > 0 or pinned:
                self.drain -= 1
                text = (
                    f"Request for unknown model: '{request.model_name}' has no available versions"
                )
                yield service_pb2.ModelStreamInferResponse(error_message=text)
                continue
            tensors = {tensor.name: tensor.contents for tensor in request.inputs}
            options = self.options(tensors["text_input"].bytes_contents[0])
            if self.hang_after is not None and len(self.seen) > self.hang_after:
                options = {"hang": True}
            with self.lock if self.serial else nullcontext():
                yield from self.answer(options, context)

    @staticmethod
    def options(prompt: bytes) -> dict[str, Any]:
        """The object that a prompt is; none for another text."""
        try:
            options = json.loads(prompt)
        except ValueError:
            return {}
        return options if isinstance(options, dict) else {}

    def answer(self, options: dict[str, Any], context: Any) -> Iterator[Any]:
        if options.get("hang"):  # such a call ends in no other way
            context.add_callback(self.cancelled.set)
        for text in options.get("texts", ["a", "b"]):
            time.sleep(options.get("gap_s", 0))
            message = service_pb2.ModelStreamInferResponse()
            message.infer_response.outputs.add(name="text_output", datatype="BYTES", shape=[1])
            message.infer_response.raw_output_contents.append(bytes_tensor(text))
            message.infer_response.parameters["triton_final_response"].bool_param = False
            yield message
        if "raw" in options:
            message = service_pb2.ModelStreamInferResponse()
            message.infer_response.outputs.add(name="text_output", datatype="BYTES", shape=[1])
            message.infer_response.raw_output_contents.append(base64.b64decode(options["raw"]))
            yield message
        if "error" in options:
            yield service_pb2.ModelStreamInferResponse(error_message=options["error"])
        if options.get("die"):
            self.stop()
        if options.keys() & {"die", "hang"}:
            self.hanging.set()
            ended = threading.Event()
            if context.add_callback(ended.set):
                ended.wait()
            return
        if not options.keys() & {"cut", "error"}:
            message = service_pb2.ModelStreamInferResponse()
            message.infer_response.parameters["triton_final_response"].bool_param = True
            if "tokens" in options:
                count = int(options["tokens"]).to_bytes(4, "little")
                message.infer_response.outputs.add(
                    name="num_output_tokens", datatype="UINT32", shape=[1]
                )
                message.infer_response.raw_output_contents.append(count)
            yield from [message] * options.get("finals", 1)


@pytest.fixture
def fake_triton() -> Iterator[Callable[..., FakeTriton]]:
    """Starts a FAKE Triton server with the given fields; stopped at the end."""
    yield from started(FakeTriton)
