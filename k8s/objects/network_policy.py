"""The NetworkPolicies: who may talk to the pods, and to whom they may talk."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

from ...runtime.contract import GRPC, HTTP, METRICS_PORT, OPENAI
from ..manifests import NETWORK_POLICY, Manifests
from ..names import selector
from ..yaml_text import Object
from .metadata import new

_DNS_PORTS: Final = (53, 5353)
"""OpenShift's DNS pods listen on the second, and policies see the port behind the Service."""

_COMMENT = """\
Ingress: inference from pods in the same namespace (add a namespaceSelector for a
gateway in another one), metrics from every namespace. Egress: none; everything the
server needs is in the bundle. The component mesh-egress lets the sidecar of a service
mesh reach its control plane."""


def network_policy(manifests: Manifests) -> None:
    """The policy of the serving pods."""
    name = manifests.release.name
    spec = {
        "podSelector": {"matchLabels": selector(name)},
        # Egress without a rule allows none. Not `egress: []`: the API server drops an empty list,
        # and `kubectl diff` would find a difference for ever.
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"podSelector": {}}], "ports": _ports(GRPC.name, HTTP.name, OPENAI.name)},
            {"from": [{"namespaceSelector": {}}], "ports": _ports(METRICS_PORT.name)},
        ],
    }
    document = new("networking.k8s.io/v1", "NetworkPolicy", name, spec=spec)
    manifests.add(NETWORK_POLICY, document, _COMMENT)


def download_policy(name: str, instance: str, app: str) -> Object:
    """A policy for pods that download over HTTPS and that nobody calls."""
    return _outgoing(name, instance, app, {"ports": [{"protocol": "TCP", "port": 443}]})


def client_policy(name: str, instance: str, app: str) -> Object:
    """A policy for pods that talk to the serving pods only, and that nobody calls."""
    ports = [{"protocol": "TCP", "port": port.number} for port in (GRPC, HTTP, OPENAI)]
    servers = [{"podSelector": {"matchLabels": selector(instance)}}]
    return _outgoing(name, instance, app, {"to": servers, "ports": ports})


def _outgoing(name: str, instance: str, app: str, rule: Object) -> Object:
    """A policy for pods that look up names and connect as `rule` allows."""
    protocols = product(_DNS_PORTS, ("UDP", "TCP"))
    names = {"ports": [{"protocol": protocol, "port": port} for port, protocol in protocols]}
    spec = {
        "podSelector": {"matchLabels": selector(instance, app)},
        "policyTypes": ["Ingress", "Egress"],
        "egress": [names, rule],
    }
    return new("networking.k8s.io/v1", "NetworkPolicy", name, app=app, instance=instance, spec=spec)


def _ports(*names: str) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": name} for name in names]
