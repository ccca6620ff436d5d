"""Reading rendered objects: what the rules ask of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from .yaml_text import Object

GPU: Final = "nvidia.com/gpu"

_UNITS: Final = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rendered:
    """One overlay's objects. `path` is the file, relative to the tree, that messages name."""

    path: str
    documents: tuple[Object, ...]

    def of_kind(self, *kinds: str) -> Iterator[Object]:
        return (document for document in self.documents if document["kind"] in kinds)


def pod(document: Object) -> dict[str, Any]:
    """The pod template's spec of a Deployment."""
    spec: dict[str, Any] = document["spec"]["template"].get("spec", {})
    return spec


def pod_labels(document: Object) -> dict[str, str]:
    """The labels that a Deployment's pods carry."""
    labels: dict[str, str] = document["spec"]["template"].get("metadata", {}).get("labels", {})
    return labels


def containers(document: Object) -> list[dict[str, Any]]:
    """Every container of a Deployment, init containers first."""
    spec = pod(document)
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def triton(document: Object) -> dict[str, Any]:
    """The serving container; empty where there is none."""
    found = [c for c in pod(document).get("containers", []) if c["name"] == "triton"]
    return found[0] if found else {}


def resource(container: dict[str, Any], kind: str, name: str) -> float | None:
    """`requests` or `limits` of a resource, in units (cores, bytes, GPUs); None where not set."""
    value = container.get("resources", {}).get(kind, {}).get(name)
    return None if value is None else amount(value)


def amount(quantity: object) -> float:
    """A Kubernetes quantity as a number. Raises `ValueError` where it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]{0,2})", str(quantity))
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{quantity!r} is not a quantity")
    return float(match[1]) * _UNITS[match[2]]


def flags(container: dict[str, Any]) -> dict[str, str]:
    """`--name=value` arguments by name; the value of a bare flag is empty."""
    pairs = (argument.partition("=") for argument in container.get("args", []))
    return {name: value for name, _, value in pairs}


def seconds(flag_values: dict[str, str], name: str, unit: float = 1) -> float | None:
    """A flag's whole number times `unit`; None where the flag is missing or not one."""
    text = flag_values.get(name, "")
    return int(text) * unit if text.isdecimal() else None


def pre_stop_seconds(container: dict[str, Any]) -> int:
    """How long the preStop hook sleeps; 0 without one."""
    hook = container.get("lifecycle", {}).get("preStop", {})
    return int(hook.get("sleep", {}).get("seconds", 0))


def startup_seconds(container: dict[str, Any]) -> int:
    """The start-up probe's budget; 0 without a probe. Defaults are Kubernetes' own."""
    probe = container.get("startupProbe")
    if not probe:
        return 0
    budget = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
    return int(budget + probe.get("initialDelaySeconds", 0))
