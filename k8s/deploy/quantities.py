"""Quantities as Kubernetes writes them, and what pods request."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from .snapshot import Object

_UNITS: Final = {
    "": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}  # fmt: skip

_QUANTITY: Final = re.compile(r"([+-]?[\d.]+(?:[eE][+-]?\d+)?)([a-zA-Z]*)")

Amounts = dict[str, Decimal]
"""Amounts by the name of the resource."""


def number(quantity: str | int | float) -> Decimal:
    """A quantity as a number. Raises `ValueError`."""
    match = _QUANTITY.fullmatch(str(quantity))
    if not match or match[2] not in _UNITS:
        raise ValueError(f"{quantity!r} is no quantity")
    return Decimal(match[1]) * _UNITS[match[2]]


def shown(amount: Decimal) -> str:
    """An amount for people: whole, or in GiB where it is that large."""
    gib = Decimal(1024) ** 3
    return f"{amount / gib:.4g} GiB" if amount >= gib else f"{amount.normalize():f}"


def amounts(quantities: dict[str, str] | None) -> Amounts:
    """Quantities as numbers."""
    return {name: number(value) for name, value in (quantities or {}).items()}


def requests(pod_spec: Object) -> Amounts:
    """What the scheduler counts for a pod: containers together, or the largest init container."""
    containers = [_requests(c) for c in pod_spec.get("containers") or ()]
    first = pod_spec.get("initContainers") or ()
    sidecars = [_requests(c) for c in first if c.get("restartPolicy") == "Always"]
    total = _sum([*containers, *sidecars, amounts(pod_spec.get("overhead"))])
    for container in first:
        for name, value in _requests(container).items():
            total[name] = max(total.get(name, Decimal(0)), value)
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
            by_node.setdefault(node, []).append({**requests(pod["spec"]), "pods": Decimal(1)})
    return {node: _sum(rows) for node, rows in by_node.items()}


def _sum(rows: Iterable[Amounts]) -> Amounts:
    total: Amounts = {}
    for row in rows:
        for name, value in row.items():
            total[name] = total.get(name, Decimal(0)) + value
    return total
