"""Reads a snapshot of a deployment with kubectl."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from ..names import CHECK, FILL, TRITON
from .errors import ForbiddenError
from .kubectl import Kubectl
from .scheduling import is_refused
from .snapshot import Object, Snapshot, Target, container_states, is_true

_NAMESPACED: Final = "deployments.apps,replicasets.apps,pods,jobs.batch,persistentvolumeclaims"
_OPTIONAL: Final = {"Event": "events", "PodDisruptionBudget": "poddisruptionbudgets.policy"}
_CLUSTER: Final = {
    "Node": "nodes",
    "StorageClass": "storageclasses.storage.k8s.io",
    "RuntimeClass": "runtimeclasses.node.k8s.io",
}
_LINES: Final = "--tail=200"


def cluster(kubectl: Kubectl) -> tuple[list[Object], set[str]]:
    """Nodes, storage classes and runtime classes, and the kinds of them that the user may not
    list."""
    objects: list[Object] = []
    return objects, {kind for kind, what in _CLUSTER.items() if not _add(kubectl, objects, what)}


def read(kubectl: Kubectl, target: Target) -> Snapshot:
    """Everything that the checks of a rollout look at, with the rights that the user has.

    Nodes, classes and other namespaces' pods are read only where a pod waits for them.
    """
    objects = kubectl.items("get", _NAMESPACED)
    unreadable = {kind for kind, what in _OPTIONAL.items() if not _add(kubectl, objects, what)}
    snapshot = Snapshot(target, tuple(objects), frozenset(unreadable))
    if _waits(snapshot):
        around, denied = cluster(kubectl)
        objects, unreadable, others = [*objects, *around], unreadable | denied, list[Object]()
        if _add(kubectl, others, "pods", "--all-namespaces"):
            objects = [item for item in objects if item["kind"] != "Pod"] + others
        snapshot = Snapshot(target, tuple(objects), frozenset(unreadable))
    return replace(snapshot, logs=dict(_logs(kubectl, snapshot)))


def _add(kubectl: Kubectl, objects: list[Object], *arguments: str) -> bool:
    """Add the objects that may be read; says whether the user has the right to."""
    try:
        objects += kubectl.items("get", *arguments)
    except ForbiddenError:
        return False
    return True


def _waits(snapshot: Snapshot) -> bool:
    """Whether a watched pod has no node, or its containers do not start."""
    return any(
        is_refused(pod) or any(row.get("restartCount") for row in container_states(pod))
        for pod in snapshot.watched_pods
    )


def _logs(kubectl: Kubectl, snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """The ends of the logs that tell how far a container is."""
    starting = [pod for pod in snapshot.new_pods if not is_true(pod, "Ready")]
    for pod in [*snapshot.job_pods[:1], *starting]:
        name = pod["metadata"]["name"]
        for row in container_states(pod):
            if row["name"] in (CHECK, FILL, TRITON) and (row.get("state") or {}).get("running"):
                answer = kubectl.call("logs", name, "-c", row["name"], _LINES, good=(0, 1))
                yield f"{name}/{row['name']}", answer.out
