"""What every object begins with. None sets a namespace: kustomize does, or `kubectl apply -n`."""

from __future__ import annotations

from typing import Any

from ..names import SERVER, labels
from ..yaml_text import Object


def new(
    api: str, kind: str, name: str, *, app: str = SERVER, instance: str = "", **rest: Any
) -> Object:
    """An object with our labels; `instance` is `name` unless another is given."""
    metadata = {"name": name, "labels": labels(instance or name, app)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}
