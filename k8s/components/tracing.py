"""The components that send OpenTelemetry traces: of Triton, and of the OpenAI endpoint.

They are not applied by default, because they need a collector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ...runtime import contract
from .component import Component, Patch, add, patching

COLLECTOR: Final = "http://opentelemetry-collector.observability.svc:4318"
"""The collector that traces are sent to unless one's own overlay says otherwise."""

_COLLECTOR_PORT: Final = 4318
_TRITON: Final = "/spec/template/spec/containers/0"
_ENDPOINT: Final = "/spec/template/spec/containers/1"


def tracing() -> tuple[Component, ...]:
    """Both components. Either can be added without the other."""
    return (
        patching(
            "tracing",
            _TRITON_COMMENT,
            {"Deployment": _triton_arguments(rate=100), "NetworkPolicy": _egress()},
        ),
        patching(
            "openai-tracing",
            _ENDPOINT_COMMENT,
            {"Deployment": _endpoint_arguments(), "NetworkPolicy": _egress()},
        ),
    )


def _triton_arguments(rate: int) -> Patch:
    arguments = [
        "--trace-config=mode=opentelemetry",
        f"--trace-config=opentelemetry,url={COLLECTOR}/v1/traces",
        "--trace-config=level=TIMESTAMPS",
        f"--trace-config=rate={rate}",
    ]
    return [add(f"{_TRITON}/args/-", argument) for argument in arguments]


def _endpoint_arguments() -> Patch:
    variables = {
        contract.OTLP_ENDPOINT.name: COLLECTOR,
        contract.OTEL_SAMPLER.name: "parentbased_traceidratio",
        contract.OTEL_SAMPLER_ARGUMENT.name: "0.01",
    }
    return [
        add(f"{_ENDPOINT}/args/-", "--traces"),
        *(add(f"{_ENDPOINT}/env/-", {"name": k, "value": v}) for k, v in variables.items()),
    ]


def _egress() -> Patch:
    def ports(number: int, *protocols: str) -> Mapping[str, Any]:
        return {"ports": [{"protocol": protocol, "port": number} for protocol in protocols]}

    return [add("/spec/egress", [ports(_COLLECTOR_PORT, "TCP"), ports(53, "UDP", "TCP")])]


_ADDING: Final = """\
The network policy then allows the collector's port and DNS, to any address. Add the component in
your own overlay, with a patch where the collector has another address:
    resources: [PATH/k8s]
    components: [PATH/k8s/components/{name}]"""

_TRITON_COMMENT: Final = f"""\
OpenTelemetry traces of every hundredth request, made by Triton and sent over HTTP to
{COLLECTOR}/v1/traces.
{_ADDING.format(name="tracing")}"""

_ENDPOINT_COMMENT: Final = f"""\
OpenTelemetry spans of requests to the OpenAI endpoint: of every hundredth one, and of those whose
client sends a sampled trace context. They are sent over HTTP to
{COLLECTOR}
OpenTelemetry's own environment variables configure them. The image needs the Python packages
opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http: where they are missing, the container
openai ends and names them. With the component tracing as well, Triton's spans belong to the
endpoint's.
{_ADDING.format(name="openai-tracing")}"""
