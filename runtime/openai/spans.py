"""OpenTelemetry spans of requests, with the names of its conventions for generative AI.

A span belongs to the trace of the client that sends `traceparent`, and the server's own spans
belong to it. No text of a request or an answer is in it. The packages of OpenTelemetry are imported
only when spans are wanted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .. import contract
from ..contract import Tensor
from ..generation import Usage
from .errors import ApiError
from .request import CompletionRequest

SERVICE: Final = "nemo-deploy-openai"
"""The name of the service, unless OpenTelemetry's variables give another one."""

Metadata = tuple[tuple[str, str], ...]
"""Names and values that accompany a call to the server."""

_CONTEXT: Final = ("traceparent", "tracestate")
"""The headers of W3C's trace context."""

_SAMPLING: Final[Mapping[Tensor, str]] = {
    contract.TEMPERATURE: "temperature",
    contract.TOP_P: "top_p",
    contract.TOP_K: "top_k",
    contract.FREQUENCY_PENALTY: "frequency_penalty",
    contract.PRESENCE_PENALTY: "presence_penalty",
    contract.MAX_TOKENS: "max_tokens",
    contract.SEED: "seed",
}
"""What `gen_ai.request.*` calls the sampling parameters."""

CLOSED: Final = "client_closed_request"
"""The type of error of a request whose client hung up."""


class Span:
    """The span of one request. This one is not recorded."""

    metadata: Metadata = ()
    """What makes the server's spans belong to this one."""

    def read(self, request: CompletionRequest, model: str) -> None:
        """Note what is asked for, with the name of the model."""

    def first_piece(self) -> None:
        """Note that the first piece of the answer has come."""

    def answered(self, answer_id: str, finishes: Sequence[str | None], usage: Usage) -> None:
        """Note the end of the answer: why each choice ended, and the tokens of all."""

    def failed(self, error: ApiError, status: int) -> None:
        """Note why there is no whole answer, and the HTTP status of the response."""

    def end(self) -> None:
        """End the span. One that was neither answered nor failed was left by its client."""


class Spans:
    """Makes the spans. These are not recorded."""

    def begin(self, operation: str, path: str, headers: Mapping[str, str]) -> Span:
        """Begin the span of a request: `chat` or `text_completion`."""
        return Span()

    def close(self) -> None:
        """Send what has not been sent yet."""


class RecordedSpan(Span):
    """A span of OpenTelemetry."""

    def __init__(self, span: Any, metadata: Metadata) -> None:
        self.metadata = metadata
        self._span = span
        self._began = time.monotonic()
        self._waits = True
        self._over = False

    def read(self, request: CompletionRequest, model: str) -> None:
        inputs = request.generations[0]
        attributes: dict[str, Any] = {
            f"gen_ai.request.{name}": inputs[tensor][0]
            for tensor, name in _SAMPLING.items()
            if tensor in inputs
        }
        if contract.STOP_WORDS in inputs:
            words = [word.decode() for word in inputs[contract.STOP_WORDS]]
            attributes["gen_ai.request.stop_sequences"] = words
        if len(request.generations) > 1:
            attributes["gen_ai.request.choice.count"] = len(request.generations)
        attributes |= {"gen_ai.request.model": model, "gen_ai.request.stream": request.stream}
        self._span.set_attributes(attributes)

    def first_piece(self) -> None:
        if self._waits:
            self._waits = False
            seconds = time.monotonic() - self._began
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", seconds)

    def answered(self, answer_id: str, finishes: Sequence[str | None], usage: Usage) -> None:
        self._over = True
        self._span.set_attributes(
            {
                "http.response.status_code": 200,
                "gen_ai.response.id": answer_id,
                "gen_ai.response.finish_reasons": [finish or "" for finish in finishes],
                "gen_ai.usage.input_tokens": usage.prompt,
                "gen_ai.usage.output_tokens": usage.answer,
                "gen_ai.usage.reasoning.output_tokens": usage.reasoning,
            }
        )

    def failed(self, error: ApiError, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        self._fail(error.code, error.message)

    def end(self) -> None:
        if not self._over:
            self._fail(CLOSED, "the client closed the connection")
        self._span.end()

    def _fail(self, kind: str, message: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._over = True
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, message))


class RecordedSpans(Spans):
    """Spans that are sent over HTTP, as OpenTelemetry's own environment variables say.

    Raises `ImportError` where a package is missing.
    """

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        given = OTELResourceDetector().detect().attributes
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": SERVICE, **given})
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(contract.PACKAGE)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, operation: str, path: str, headers: Mapping[str, str]) -> Span:
        from opentelemetry.trace import SpanKind, set_span_in_context

        given = {name: headers[name] for name in _CONTEXT if name in headers}
        span = self._tracer.start_span(
            operation,
            self._propagator.extract(given),
            SpanKind.SERVER,
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "nemo_deploy",
                "http.request.method": "POST",
                "url.path": path,
            },
        )
        if not span.is_recording():
            # Nothing is passed on: Triton traces every request that has a trace context, also one
            # that says that it is not sampled.
            return Span()
        passed: dict[str, str] = {}
        self._propagator.inject(passed, set_span_in_context(span))
        return RecordedSpan(span, tuple(passed.items()))

    def close(self) -> None:
        self._provider.shutdown()
