"""What pods request of a node, and how much of it is taken."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from ..quantities import parse_quantity
from .snapshot import Object

Amounts = dict[str, Fraction]
"""Amounts by the name of the resource."""


def shown(amount: Fraction) -> str:
    """An amount for people, in GiB where it is that large."""
    gib = 2**30
    return f"{float(amount / gib):.4g} GiB" if amount >= gib else f"{float(amount):.10g}"


def amounts(quantities: dict[str, str] | None) -> Amounts:
    """Quantities as numbers."""
    return {name: parse_quantity(value) for name, value in (quantities or {}).items()}


def requests(pod_spec: Object) -> Amounts:
    """What the scheduler counts for a pod: containers together, or the largest init container."""
    containers = [_requests(c) for c in pod_spec.get("containers") or ()]
    first = pod_spec.get("initContainers") or ()
    sidecars = [_requests(c) for c in first if c.get("restartPolicy") == "Always"]
    total = _sum([*containers, *sidecars, amounts(pod_spec.get("overhead"))])
    for container in first:
        for name, value in _requests(container).items():
            total[name] = max(total.get(name, Fraction(0)), value)
    return total


def _requests(container: Object) -> Amounts:
    """A container's requests; a limit without a request is one."""
    resources = container.get("resources") or {}
    return amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def used(pods: Iterable[Object]) -> dict[str, Amounts]:
    """What the pods that have not ended request, by node."""
    by_node: dict[str, list[Amounts]] = {}
    for pod in pods:
        node, phase = pod["spec"].get("nodeName"), pod.get("status", {}).get("phase")
        if node and phase not in ("Succeeded", "Failed"):
            by_node.setdefault(node, []).append({**requests(pod["spec"]), "pods": Fraction(1)})
    return {node: _sum(rows) for node, rows in by_node.items()}


def _sum(rows: Iterable[Amounts]) -> Amounts:
    total: Amounts = {}
    for row in rows:
        for name, value in row.items():
            total[name] = total.get(name, Fraction(0)) + value
    return total
