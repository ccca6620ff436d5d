"""A FAKE of what Triton's Python backend hands to a model; the real one exists only in its stub.

Names and signatures follow triton-inference-server/python_backend, README.md @main ("Usage",
"Decoupled mode", "Error Handling", "Request Cancellation Handling", "Custom Metrics");
tests/e2e runs the real one.
"""

import threading
from dataclasses import dataclass, field
from typing import Any, ClassVar

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonError:
    (
        UNKNOWN,
        INTERNAL,
        NOT_FOUND,
        INVALID_ARG,
        UNAVAILABLE,
        UNSUPPORTED,
        ALREADY_EXISTS,
        CANCELLED,
    ) = range(8)

    def __init__(self, message, code=INTERNAL):
        self._message, self._code = message, code

    def message(self):
        return self._message

    def code(self):
        return self._code


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


@dataclass
class InferenceResponse:
    tensors: list[Any] = field(default_factory=list)
    error: TritonError | None = None

    def texts(self):
        return {tensor.name(): tensor.as_numpy().tolist()[0] for tensor in self.tensors}


class ResponseSender:
    """Refuses to be used after its final response, as the real one does."""

    def __init__(self):
        self.sent = []
        self.ended = threading.Event()
        self.broken = False
        self.gone = False

    def send(self, response, flags=0):
        if self.closed:
            raise RuntimeError("Unable to send response. Response sender has been closed.")
        if self.broken:
            self.broken = False
            raise RuntimeError("An error occurred while sending a response.")
        self.sent.append((response, flags))
        if flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            self.ended.set()

    @property
    def closed(self):
        return self.ended.is_set()

    def is_cancelled(self):
        return self.gone


class InferenceRequest:
    def __init__(self, tensors, request_id="", timeout=0, parameters=""):
        self._tensors, self._id = tensors, request_id
        self._timeout, self._parameters = timeout, parameters
        self.sender = ResponseSender()

    def inputs(self):
        return [Tensor(name, array) for name, array in self._tensors.items()]

    def request_id(self):
        return self._id

    def timeout(self):
        """Microseconds; 0 where none was given."""
        return self._timeout

    def parameters(self):
        """JSON, or nothing."""
        return self._parameters

    def get_response_sender(self):
        return self.sender


class Logger:
    @staticmethod
    def log_info(message):
        pass

    @staticmethod
    def log_warn(message):
        pass


class Metric:
    def __init__(self):
        self._value = 0.0

    def increment(self, value):
        self._value += value

    def set(self, value):
        self._value = value

    def value(self):
        return self._value


class MetricFamily:
    """As there, a name is registered once for each kind; the values stay for a test to read."""

    COUNTER, GAUGE, HISTOGRAM = range(3)
    metrics: ClassVar[dict[Any, Metric]] = {}

    def __init__(self, name, description, kind):
        self._name = name

    def Metric(self, labels):  # noqa: N802
        return self.metrics.setdefault((self._name, *sorted(labels.items())), Metric())
