"""The component that lets the sidecar of a service mesh reach its control plane."""

from __future__ import annotations

from typing import Any, Final

from ..names import APP, INSTANCE, SERVER
from ..objects.metadata import new
from .component import Component

CONTROL_PLANES: Final = {"istio-system": (15012,), "linkerd": (8080, 8086, 8090)}
"""Ports of the control planes of Istio and Linkerd, by their usual namespaces."""


def mesh(name: str) -> Component:
    """The component of the bundle `name`: a policy beside the others, which add up."""
    pods = {"key": INSTANCE, "operator": "In", "values": [name, f"{name}-dev"]}
    names: list[dict[str, Any]] = [{"protocol": p, "port": 53} for p in ("UDP", "TCP")]
    egress: list[dict[str, Any]] = [{"ports": names}]
    for namespace, ports in CONTROL_PLANES.items():
        selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        egress.append(
            {
                "to": [{"namespaceSelector": selector}],
                "ports": [{"protocol": "TCP", "port": port} for port in ports],
            }
        )
    spec = {
        "podSelector": {"matchLabels": {APP: SERVER}, "matchExpressions": [pods]},
        "policyTypes": ["Egress"],
        "egress": egress,
    }
    policy = new("networking.k8s.io/v1", "NetworkPolicy", f"{name}-mesh", instance=name, spec=spec)
    files = {"networkpolicy.yaml": policy}
    return Component("mesh-egress", _COMMENT, {"resources": [*files]}, files, {})


_COMMENT: Final = """\
Lets a mesh's sidecar in the serving pods reach its control plane: Istio in the namespace
istio-system, Linkerd in linkerd. Without it, the policy that allows no egress keeps the sidecar,
and so the pod, from becoming ready. Add it in your own overlay:
    resources: [PATH/k8s]
    components: [PATH/k8s/components/mesh-egress]"""
