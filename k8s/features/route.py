"""A Gateway API route to the OpenAI endpoint."""

from __future__ import annotations

from typing import Any, Final

from ...runtime.contract import OPENAI
from ..manifests import NETWORK_POLICY, Manifests
from ..objects.metadata import new

_COMMENT: Final = """\
The Gateway {gateway} passes requests below /v1 to OpenAI's API. The time limit of a request is
switched off, because answers may stream for minutes. Set up TLS and authentication at the Gateway,
or API keys at the endpoint (the component api-keys)."""

_REMARK: Final = """\
The namespace of the Gateway may reach OpenAI's API."""


def route(manifests: Manifests) -> None:
    """An HTTPRoute, if `--gateway` names a Gateway."""
    options, name = manifests.release.options, manifests.release.name
    if options.gateway is None:
        return
    namespace, _, gateway = options.gateway.rpartition("/")
    parent = {"name": gateway, **({"namespace": namespace} if namespace else {})}
    spec: dict[str, Any] = {"parentRefs": [parent]}
    if options.hostname:
        spec["hostnames"] = [options.hostname]
    spec["rules"] = [
        {
            "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
            "backendRefs": [{"name": name, "port": OPENAI.number}],
            "timeouts": {"request": "0s"},
        }
    ]
    comment = _COMMENT.format(gateway=options.gateway)
    document = new("gateway.networking.k8s.io/v1", "HTTPRoute", name, spec=spec)
    manifests.add("httproute.yaml", document, comment)
    if namespace:
        selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        manifests.objects[NETWORK_POLICY]["spec"]["ingress"].append(
            {
                "from": [{"namespaceSelector": selector}],
                "ports": [{"protocol": "TCP", "port": OPENAI.name}],
            }
        )
        manifests.remark(NETWORK_POLICY, _REMARK)
