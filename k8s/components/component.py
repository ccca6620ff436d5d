"""Kustomize components: parts of the tree that one's own overlay may add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..yaml_text import Object

_PODS: Final = "app.kubernetes.io/name=tritonserver"

Patch = Sequence[Mapping[str, Any]]
"""A JSON patch (RFC 6902)."""


@dataclass(frozen=True, slots=True)
class Component:
    """A kustomize component: its comment, its `kustomization.yaml`, objects and plain files."""

    name: str
    comment: str
    kustomization: Object
    objects: Mapping[str, Any]
    files: Mapping[str, str]


def patching(name: str, comment: str, patches: Mapping[str, Patch]) -> Component:
    """A component that patches objects of the base; `patches` by their kind."""
    files = {f"{kind.lower()}.patch.yaml": patch for kind, patch in patches.items()}
    targets = [
        {"path": path, "target": {"kind": kind, "labelSelector": _PODS}}
        for path, kind in zip(files, patches, strict=True)
    ]
    return Component(name, comment, {"patches": targets}, files, {})


def add(path: str, value: object) -> Mapping[str, Any]:
    """The step of a patch that adds a value, or sets it where there is one."""
    return {"op": "add", "path": path, "value": value}
