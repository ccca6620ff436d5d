"""Spans of the OpenAI endpoint and of Triton, received by a collector of OpenTelemetry's protocol.

One server and one collector for all of it. Triton traces requests with a trace context only.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from nemotron_deploy.runtime.openai.spans import CLOSED, SERVICE
from nemotron_deploy.tests.e2e.scripted_bundle import scripted_bundle
from nemotron_deploy.triton_repo import local
from nemotron_deploy.triton_repo.openai import Endpoint

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(local.unavailable() is not None, reason=str(local.unavailable())),
]

HOUR_MS = 3600 * 1000
SCRIPT: list[dict[str, Any]] = [
    {"when": "for ever", "pieces": ["</think>", "and", "on"], "pace_ms": HOUR_MS},
    {"when": "at once", "pieces": ["Hm", "</think>", "Hello"]},
]
TEMPLATE = Path(__file__).parents[1] / "runtime" / "nemotron.jinja"

Eventually = Callable[..., None]


class Collector(ThreadingHTTPServer):
    """Keeps every span that is sent to it, with the name of its service."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.received: list[tuple[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def spans(self, service: str, trace: str) -> list[Any]:
        return [
            s for name, s in list(self.received) if (name, s.trace_id.hex()) == (service, trace)
        ]


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.path == "/v1/traces"
        for resource in exported(self.headers["content-type"], body).resource_spans:
            service = values(resource.resource.attributes).get("service.name", "")
            for scope in resource.scope_spans:
                self.server.received += [(service, span) for span in scope.spans]
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


def exported(kind: str, body: bytes) -> Any:
    """The spans in a body: protobuf from Python's exporter, JSON from Triton's."""
    if kind == "application/x-protobuf":
        return ExportTraceServiceRequest.FromString(body)
    # In OpenTelemetry's JSON, ids are hexadecimal, where protobuf's own JSON has base64.
    text = re.sub(
        rb'"(traceId|spanId|parentSpanId)":\s*"([0-9a-f]*)"',
        lambda found: b'"%s":"%s"' % (found[1], b64encode(bytes.fromhex(found[2].decode()))),
        body,
    )
    return json_format.Parse(text, ExportTraceServiceRequest(), ignore_unknown_fields=True)


def values(attributes: Any) -> dict[str, Any]:
    """Attributes of a span by name."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [plain(element) for element in value.array_value.values]
        return getattr(value, kind)

    return {attribute.key: plain(attribute.value) for attribute in attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def server(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[local.LocalServer]:
    bundle = scripted_bundle(tmp_path_factory.mktemp("bundle"), SCRIPT, 4, TEMPLATE)
    tracing = [
        "mode=opentelemetry",
        f"opentelemetry,url={collector.url}/v1/traces",
        "opentelemetry,resource=service.name=triton",
        "opentelemetry,bsp_schedule_delay=100",
        "level=TIMESTAMPS",
        "rate=0",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        with local.LocalServer(
            bundle.repository,
            executor="scripted",
            script=bundle.script,
            openai=Endpoint("tiny", traces=True),
            trace=tracing,
            grace=1,
        ) as running:
            running.wait_ready()
            yield running


class Context:
    """The trace context of a client."""

    def __init__(self, sampled: bool = True) -> None:
        self.trace, self.span = secrets.token_hex(16), secrets.token_hex(8)
        self.header = f"00-{self.trace}-{self.span}-{sampled:02x}"


def chat(server: local.LocalServer, context: Context, **fields: Any) -> urllib.request.Request:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "at once"}]} | fields
    return urllib.request.Request(
        f"{server.openai_url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json", "traceparent": context.header},
    )


def answer(server: local.LocalServer, context: Context, **fields: Any) -> str:
    """Read the answer to a chat; gives its id."""
    with urllib.request.urlopen(chat(server, context, **fields), timeout=120) as response:
        response.read()
        return str(response.headers["x-request-id"])


def refusal(server: local.LocalServer, context: Context, **fields: Any) -> tuple[int, str]:
    """The status and the message of a chat that is refused."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(chat(server, context, **fields), timeout=120)
    with caught.value as error:
        return error.code, json.load(error)["error"]["message"]


def the_span(collector: Collector, context: Context, eventually: Eventually) -> Any:
    eventually(lambda: collector.spans(SERVICE, context.trace), "no span came")
    (span,) = collector.spans(SERVICE, context.trace)
    assert span.parent_span_id.hex() == context.span
    assert (span.name, span.kind) == ("chat", Span.SPAN_KIND_SERVER)
    return span


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_request_and_tritons_part_of_it(
    server: local.LocalServer, collector: Collector, eventually: Eventually, stream: bool
) -> None:
    context = Context()
    fields = {"temperature": 0.5, "max_tokens": 50, "stop": ["x"], "stream": stream}
    answer_id = answer(server, context, **fields)
    span = the_span(collector, context, eventually)
    found = values(span.attributes)
    seconds = found.pop("gen_ai.response.time_to_first_chunk", None)
    duration = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    assert 0 < seconds <= duration if stream else seconds is None
    assert found.pop("gen_ai.usage.input_tokens") > 1
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "nemo_deploy",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.stream": stream,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.stop_sequences": ["x"],
        "gen_ai.response.id": answer_id,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 1,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
    }
    assert span.status.code == Status.STATUS_CODE_UNSET

    contexts = [context]

    def linked() -> bool:
        """Triton drops what it cannot export within 10 s, as on a busy machine: so ask again."""
        contexts.append(Context())
        answer(server, contexts[-1], **fields)
        return any(
            triton.parent_span_id == ours.span_id
            for sent in contexts
            for ours in collector.spans(SERVICE, sent.trace)
            for triton in collector.spans("triton", sent.trace)
        )

    eventually(linked, "Triton's span is not part of the endpoint's")


def test_a_trace_that_is_not_sampled_is_not_recorded_by_triton_either(
    server: local.LocalServer, collector: Collector, eventually: Eventually
) -> None:
    """Triton alone would trace every request that has a context."""
    silent, sampled = Context(sampled=False), Context()
    for context in (silent, sampled):
        answer(server, context)
    the_span(collector, sampled, eventually)
    eventually(lambda: collector.spans("triton", sampled.trace), "no span of Triton came")
    assert not collector.spans(SERVICE, silent.trace)
    assert not collector.spans("triton", silent.trace)


@pytest.mark.parametrize(
    ("fields", "kind", "status"),
    [
        ({"temperature": -1}, "invalid_value", 400),
        ({"colour": 1}, "unknown_parameter", 400),
        ({"model": "huge"}, "model_not_found", 404),
    ],
    ids=["refused by the model", "refused here", "another model"],
)
def test_refused_requests(
    server: local.LocalServer,
    collector: Collector,
    eventually: Eventually,
    fields: dict[str, Any],
    kind: str,
    status: int,
) -> None:
    context = Context()
    refused, message = refusal(server, context, **fields)
    span = the_span(collector, context, eventually)
    found = values(span.attributes)
    assert (found["error.type"], found["http.response.status_code"]) == (kind, status)
    assert refused == status
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, message)


def test_requests_that_are_cut_short(
    server: local.LocalServer, collector: Collector, eventually: Eventually
) -> None:
    forever = {"messages": [{"role": "user", "content": "for ever"}]}
    late, gone = Context(), Context()
    assert refusal(server, late, **forever, timeout=0.2)[0] == 504
    assert values(the_span(collector, late, eventually).attributes)["error.type"] == "timeout"
    left = chat(server, gone, **forever)
    connection = HTTPConnection(left.host)
    connection.request("POST", left.selector, left.data, left.headers)
    connection.close()
    assert values(the_span(collector, gone, eventually).attributes)["error.type"] == CLOSED
