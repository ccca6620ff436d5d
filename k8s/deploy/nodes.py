"""Which nodes fit a pod, and what keeps the nearest one from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from fractions import Fraction
from typing import Final

from .requests import Amounts, amounts, requests, shown
from .snapshot import Object, is_true, tolerated

_DISTANCE: Final = {
    "no-free-node": 1.0,
    "node-unavailable": 1.0,
    "taint": 2.0,
    "no-resource": 3.0,
    "no-matching-node": 4.0,
}
"""How far a fault puts a node from the pod, by its cause. A label whose value is spelled similarly
is nearer."""

_EXCLUDED_LABEL: Final = 0.5
"""How far a label puts a node that fits but for its being shared."""

_SHARED: Final = re.compile(r"-(SHARED|MIG-.+)$")
"""What GPU feature discovery adds to the product of a GPU that is shared or sliced."""

_GPU_PREFIXES: Final = ("nvidia.com/", "amd.com/", "gpu.")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that keeps a node from a pod: its cause, in words, what to do about it, and how far
    it puts the node."""

    cause: str
    text: str
    action: str
    distance: float


@dataclass(frozen=True, slots=True)
class Misfit:
    """A node that does not fit, and why."""

    node: str
    faults: tuple[Fault, ...]

    @property
    def distance(self) -> float:
        return sum(fault.distance for fault in self.faults)

    @property
    def worst(self) -> Fault:
        """The fault that is hardest to remove."""
        return max(self.faults, key=lambda fault: fault.distance)


def misfit(node: Object, pod: Object, taken: Amounts, kubectl: str = "kubectl") -> Misfit:
    """What keeps `node`, on which pods request `taken`, from running `pod`."""
    spec = pod["spec"]
    faults = [
        *_labels(node, spec, kubectl),
        *_resources(node, requests(spec), taken),
        *_taints(node, spec.get("tolerations") or [], kubectl),
        *_availability(node, kubectl),
    ]
    return Misfit(node["metadata"]["name"], tuple(faults))


def nearest(
    nodes: Iterable[Object], pod: Object, taken: Mapping[str, Amounts], kubectl: str = "kubectl"
) -> Misfit | None:
    """The node that lacks the least for `pod`; None without nodes."""
    found = (misfit(n, pod, taken.get(n["metadata"]["name"], {}), kubectl) for n in nodes)
    return min(found, key=lambda row: (row.distance, row.node), default=None)


def _labels(node: Object, spec: Object, kubectl: str) -> Iterator[Fault]:
    """Labels that the node selector and the required affinity want; of alternative terms, those of
    the nearest one."""
    labels = node["metadata"].get("labels") or {}
    for key, value in (spec.get("nodeSelector") or {}).items():
        expression = {"key": key, "operator": "In", "values": [value]}
        yield from _expression(expression, labels, kubectl)
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [
        [
            fault
            for expression in term.get("matchExpressions") or ()
            for fault in _expression(expression, labels, kubectl)
        ]
        for term in required.get("nodeSelectorTerms") or ()
    ]
    if terms:
        yield from min(terms, key=lambda faults: sum(fault.distance for fault in faults))


def _expression(expression: Object, labels: dict[str, str], kubectl: str) -> Iterator[Fault]:
    key, operator = expression["key"], expression["operator"]
    values, value = expression.get("values") or [], labels.get(key)
    if _matches(operator, values, value):
        return
    far = _DISTANCE["no-matching-node"]
    if operator in ("NotIn", "DoesNotExist"):
        text = f"has the label {key}={value}, which the pod excludes"
        action = "use whole GPUs that are not shared on such a node, or add another node"
        yield Fault("no-matching-node", text, action, _EXCLUDED_LABEL)
    elif operator in ("In", "Exists") and value is None:
        wanted = f" (required: {_any_of(values)})" if values else ""
        near = get_close_matches(key, labels, 1, 0.85)
        hint = f"; it has {near[0]}={labels[near[0]]}" if near else ""
        action = (
            "install GPU feature discovery, or label the nodes that have this GPU: "
            f"{kubectl} label node NODE {key}={values[0] if values else 'true'}"
        )
        yield Fault("no-matching-node", f"lacks the label {key}{wanted}{hint}", action, far)
    elif operator == "In":
        best = max(values, key=lambda wanted: _similarity(wanted, str(value)))
        hint = f", the nearest is {best}" if len(values) > 1 else ""
        text = f"has {key}={value}; the pod requires {_any_of(values)}{hint}"
        action = (
            "turn off sharing and slicing (MIG) for that GPU, or add a node with whole GPUs"
            if _SHARED.search(str(value))
            else "add a node with the GPU that the bundle is for, or build one for the node's GPU"
        )
        distance = far - 3 * _similarity(best, str(value))
        yield Fault("no-matching-node", text, action, distance)
    else:
        text = f"has {key}={value}; the pod requires {operator} {', '.join(values)}"
        yield Fault("no-matching-node", text, "add a node that fits", far)


def _matches(operator: str, values: list[str], value: str | None) -> bool:
    """Whether a node label's value (None: it has none) satisfies an expression."""
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    if value is None or not value.lstrip("-").isdecimal():
        return False
    limit = int(values[0])
    return int(value) > limit if operator == "Gt" else int(value) < limit


def _similarity(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower(), autojunk=False).ratio()


def _any_of(values: list[str]) -> str:
    return " or ".join(values)


def _resources(node: Object, wanted: Amounts, taken: Amounts) -> Iterator[Fault]:
    offered = amounts(node.get("status", {}).get("allocatable"))
    for name, amount in {**wanted, "pods": Fraction(1)}.items():
        has = offered.get(name, Fraction(0))
        free = has - taken.get(name, Fraction(0))
        if amount > has:
            text = f"offers {shown(has) if has else 'no'} {name}, the pod requests {shown(amount)}"
            action = "add a larger node, or build for fewer GPUs or a smaller model"
            if name.startswith(_GPU_PREFIXES) and not has:
                text += _other_gpus(name, offered)
                action = (
                    "install NVIDIA's device plugin or GPU operator there, or turn off slicing and "
                    "sharing of its GPUs"
                )
            yield Fault("no-resource", text, action, _DISTANCE["no-resource"])
        elif amount > free:
            text = f"has {shown(max(free, Fraction(0)))} of {shown(has)} {name} free, the pod "
            text += f"requests {shown(amount)}"
            action = "wait, end other pods on it, or add a node"
            yield Fault("no-free-node", text, action, _DISTANCE["no-free-node"])


def _other_gpus(name: str, offered: Amounts) -> str:
    """The GPUs that a node offers under other names."""
    others = [
        f"{shown(amount)} {other}"
        for other, amount in offered.items()
        if other.startswith(_GPU_PREFIXES) and other != name and amount
    ]
    return f" (it offers {', '.join(others)})" if others else ""


def _taints(node: Object, tolerations: list[Object], kubectl: str) -> Iterator[Fault]:
    for taint in node["spec"].get("taints") or ():
        if taint["effect"] == "PreferNoSchedule" or tolerated(taint, tolerations):
            continue
        if taint["key"].startswith("node.kubernetes.io/"):
            continue  # says what `_availability` says
        value = f"={taint['value']}" if taint.get("value") else ""
        text = f"has the taint {taint['key']}{value}:{taint['effect']}, which the pod does not"
        action = (
            "add a toleration for it in an overlay of your own, or remove it: "
            f"{kubectl} taint node {node['metadata']['name']} {taint['key']}-"
        )
        yield Fault("taint", f"{text} tolerate", action, _DISTANCE["taint"])


def _availability(node: Object, kubectl: str) -> Iterator[Fault]:
    name, distance = node["metadata"]["name"], _DISTANCE["node-unavailable"]
    if node["spec"].get("unschedulable"):
        action = f"allow pods on it: {kubectl} uncordon {name}"
        yield Fault("node-unavailable", "is cordoned", action, distance)
    if not is_true(node, "Ready"):
        action = f"see what is wrong with it: {kubectl} describe node {name}"
        yield Fault("node-unavailable", "is not ready", action, distance)
    for kind in ("MemoryPressure", "DiskPressure", "PIDPressure"):
        if is_true(node, kind):
            action = f"free what it lacks: {kubectl} describe node {name}"
            yield Fault("node-unavailable", f"is under {kind}", action, distance)
