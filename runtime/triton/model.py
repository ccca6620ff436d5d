"""The model that Triton's Python backend runs: requests in, tokens out, through an executor.

The backend imports `<version>/model.py`, which puts its own directory on `sys.path` and imports
this module from the copied package there.
"""

from __future__ import annotations

import contextlib
import json
import locale
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from ..claim import serve_from
from ..contract import ERROR_CODES, OUTPUTS, TEXT_OUTPUT
from ..engine import Settings, create_executor, read_settings
from ..errors import RequestError
from ..generation import Failure
from ..service import Service
from ..sessions import OverloadedError
from ..startup_check import require_golden
from .guard import Guard
from .metrics import MetricsExporter
from .outbox import Outbox
from .parsing import is_stop, parse_request

CLOSE_SECONDS: Final = 10.0
"""How long `finalize` waits for the executor. Triton has drained requests before it calls."""

TERMINATION_LOG: Final = Path("/dev/termination-log")
"""Kubernetes' own default. There is no such file elsewhere."""

TERMINATION_BYTES: Final = 4096
"""What Kubernetes takes of it."""

_OUTPUT_TYPES: Final = {tensor.name: tensor.data_type.numpy for tensor in OUTPUTS}


class TritonPythonModel:
    """The class that the Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the executor. Triton logs an exception as the reason why the model did not load,
        and in Kubernetes it is the container's termination message."""
        try:
            self._initialize(args)
        except Exception as error:
            _leave_reason(error)
            raise

    def _initialize(self, args: dict[str, str]) -> None:
        # The stub embeds Python without a locale, so that files would be read as ASCII.
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
        config = json.loads(args["model_config"])
        parameters = {
            name: value["string_value"] for name, value in config.get("parameters", {}).items()
        }
        settings = read_settings(Path(args["model_repository"]), parameters)
        serve_from(settings.bundle)
        self._guard = Guard(os.getppid(), settings.stall, settings.dead, _shared_memory_region())
        self._outbox = Outbox()
        try:
            self._service = self._serve(settings)
        except Exception:
            self._guard.dismiss()
            raise
        self._metrics = MetricsExporter(self._service, config["name"])
        self._service.watch(self._guard.report, stall=settings.stall, dead=settings.dead)
        pb_utils.Logger.log_info(
            f"{config['name']}: the {settings.executor} executor serves {settings.bundle}"
        )

    def _serve(self, settings: Settings) -> Service:
        executor = create_executor(settings)
        try:
            require_golden(settings.bundle, executor, pb_utils.Logger.log_info)
            limit = settings.max_active + settings.max_waiting
            return Service(executor, settings.checkpoint, limit, settings.trusting)
        except Exception:
            executor.close(CLOSE_SECONDS)
            raise

    def execute(self, requests: list[Any]) -> None:
        """Start every request and return; answers are sent through the response senders."""
        for request in requests:
            parameters = json.loads(request.parameters() or "{}")
            with_code = parameters.get(ERROR_CODES) is True
            channel = TritonChannel(request.get_response_sender(), self._outbox, with_code)
            try:
                self._start(request, parameters, channel)
            except RequestError as error:
                self._refuse(channel, str(error), Failure.INVALID)
            except OverloadedError as error:
                self._refuse(channel, str(error), Failure.UNAVAILABLE)
            except Exception as error:
                self._refuse(channel, f"{type(error).__name__}: {error}", Failure.INTERNAL)

    def is_ready(self) -> bool:
        """Whether the model makes progress, for Python backends that know this hook: later ones
        than 2.51, with `/v2/models/MODEL/ready`."""
        return self._service.ready

    def finalize(self) -> None:
        """Fail live requests and stop the executor, within `CLOSE_SECONDS`."""
        self._service.close(CLOSE_SECONDS)
        self._outbox.close(CLOSE_SECONDS)
        self._metrics.close()
        self._guard.dismiss()

    def _start(self, request: Any, parameters: Mapping[str, Any], channel: TritonChannel) -> None:
        # Copied: they are read later, when Triton may use their memory for another request.
        tensors = {tensor.name(): np.array(tensor.as_numpy()) for tensor in request.inputs()}
        if is_stop(tensors):
            self._cancel(request.request_id(), channel)
            return
        self._service.submit(
            request.request_id(),
            lambda: parse_request(tensors, self._service.prompt_limit),
            channel,
            size=sum(map(_bytes, tensors.values())),
            timeout=_timeout(request, parameters),
        )

    def _refuse(self, channel: TritonChannel, message: str, failure: Failure) -> None:
        self._service.recorder.ended(failure)
        channel.send_error(message, failure)

    def _cancel(self, request_id: str, channel: TritonChannel) -> None:
        """Answer a `stop` request with empty text, also if its target had already ended."""
        self._service.cancel(request_id)
        channel.send({TEXT_OUTPUT.name: ""}, final=True)


def _leave_reason(error: Exception) -> None:
    """Write the error where Kubernetes takes a container's termination message from. It would take
    the end of the log otherwise, where Triton writes the table of its options."""
    if TERMINATION_LOG.exists():
        with contextlib.suppress(OSError):  # the log has the reason, too
            TERMINATION_LOG.write_bytes(str(error).encode()[:TERMINATION_BYTES])


def _timeout(request: Any, parameters: Mapping[str, Any]) -> float | None:
    """Seconds that a request may take, from v2's parameter `timeout` in microseconds.

    Triton passes it on as the request's timeout over gRPC, and as an ordinary parameter from the
    HTTP endpoints `generate` and `generate_stream`. Raises `RequestError`.
    """
    given = request.timeout() or parameters.get("timeout", 0)
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise RequestError("timeout must be a whole number of microseconds")
    return given / 1e6 if given else None


def _bytes(tensor: NDArray[Any]) -> int:
    """The bytes of a tensor's elements."""
    if tensor.dtype != np.object_:
        return tensor.nbytes
    return sum(len(element) for element in tensor.ravel() if isinstance(element, bytes))


def _shared_memory_region() -> str:
    """The name of this stub's region of shared memory, which Triton writes to its command line."""
    words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    is_stub = words[0].endswith(b"triton_python_backend_stub") and len(words) > 2
    return words[2].decode() if is_stub else ""


class TritonChannel:
    """A request's response sender as a `sessions.Channel`. `with_code` puts the code of an error
    before its message."""

    def __init__(self, sender: Any, outbox: Outbox, with_code: bool) -> None:
        self._sender = sender
        self._outbox = outbox
        self._with_code = with_code
        self._broken = False

    def send(self, outputs: dict[str, Any], final: bool) -> None:
        """Send tensors of shape [1], typed as `config.pbtxt` declares them."""
        tensors = []
        for name, value in outputs.items():
            element = value.encode() if isinstance(value, str) else value
            tensors.append(pb_utils.Tensor(name, np.array([element], dtype=_OUTPUT_TYPES[name])))
        self._respond(pb_utils.InferenceResponse(tensors), final)

    def send_error(self, message: str, failure: Failure) -> None:
        """Send an error and nothing after it."""
        if self._with_code:
            message = f"{failure.value}: {message}"
        error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, failure.triton_code))
        self._respond(pb_utils.InferenceResponse([], error), final=True)

    def is_cancelled(self) -> bool:
        """Whether the client closed its stream or connection, or a response was lost."""
        return self._broken or bool(self._sender.is_cancelled())

    def deliver(self, response: Any, flags: int) -> None:
        """Send a response now. After one that was lost only the last one is sent, an error."""
        if self._broken and not flags:
            return
        try:
            self._sender.send(response, flags)
        except Exception as error:
            self._broken = True
            pb_utils.Logger.log_warn(f"a response could not be sent: {error}")

    def _respond(self, response: Any, final: bool) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        self._outbox.post(self, response, flags)
