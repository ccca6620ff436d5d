"""The Service: inference inside the cluster."""

from __future__ import annotations

from ...runtime.contract import GRPC, HTTP, OPENAI
from ..manifests import SERVICE, Manifests
from ..names import selector
from .metadata import new

_COMMENT = """\
Inference only: Triton, and OpenAI's API on the port openai. Triton asks for no key, and
OpenAI's API asks for one only if the Secret with API keys exists. To expose them
outside the cluster, put a gateway with TLS and authentication in front of them.
Prometheus scrapes the pods directly."""


def service(manifests: Manifests) -> None:
    """The Service of the serving pods."""
    name = manifests.release.name
    ports = [
        {"name": p.name, "port": p.number, "targetPort": p.name, "appProtocol": protocol}
        for p, protocol in ((GRPC, "kubernetes.io/h2c"), (HTTP, "http"), (OPENAI, "http"))
    ]
    spec = {"type": "ClusterIP", "selector": selector(name), "ports": ports}
    manifests.add(SERVICE, new("v1", "Service", name, spec=spec), _COMMENT)
