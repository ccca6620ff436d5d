"""Snapshots of rollouts that were recorded on clusters of Kubernetes 1.34: those without a node on
one whose nodes kwok plays, the others on one with a real kubelet and containerd."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemotron_deploy.k8s.deploy.snapshot import Object, Snapshot, Target

FOLDER = Path(__file__).parent / "recorded"
DIGEST = "a" * 64


def document(name: str) -> dict[str, Any]:
    """A recording as it is stored."""
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def snapshot(name: str, change: Callable[[list[Object]], Any] | None = None) -> Snapshot:
    """A recording, changed by `change`."""
    loaded = document(name)
    objects = loaded["objects"]
    if change:
        change(objects)
    target = Target("nano", loaded["job"], DIGEST, "dist/nano", "kubectl --namespace llm")
    unreadable = frozenset(loaded["unreadable"])
    return Snapshot(target, tuple(objects), unreadable, loaded["logs"])


def only(objects: list[Object], kind: str) -> Object:
    """The only object of a kind."""
    (item,) = [item for item in objects if item["kind"] == kind]
    return item
