"""What is known before anything is applied: what admission refuses, and what will be missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from .admission import diagnose
from .diagnosis import Diagnosis
from .errors import is_about_rights, message_in
from .kubectl import Kubectl
from .nodes import nearest
from .snapshot import Object
from .stages import is_rolled_out

_DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"
_OTHER_DEFAULT_RUNTIME: Final = ("+k3s", "+rke2")
"""Kubernetes distributions whose default runtime does not give pods the GPU's driver."""


def refusal(kubectl: Kubectl, workload: Object) -> tuple[Diagnosis | None, tuple[str, ...]]:
    """What the API server says of a pod of `workload`, which is not created, and its warnings.

    A Deployment is accepted even where none of its pods will be.
    """
    answer = kubectl.call(
        "create", "--dry-run=server", "--output=name", "--filename=-",
        good=(0, 1), stdin=json.dumps(pod_of(workload)),
    )  # fmt: skip
    refused = answer.code and not is_about_rights(answer.err)
    found = diagnose(message_in(answer.err), " ".join(kubectl.words)) if refused else None
    return found, answer.warnings


def pod_of(workload: Object) -> Object:
    """A pod as the controller would create it. It names no service account, because the real one
    may not exist yet."""
    template = workload["spec"]["template"]
    spec = {k: v for k, v in template["spec"].items() if k != "serviceAccountName"}
    name = f"{workload['metadata']['name'][:50]}-"
    metadata = {**template.get("metadata", {}), "generateName": name}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def warnings(
    tree: Iterable[Object], live: Object | None, cluster: list[Object], kubectl: str
) -> Iterator[str]:
    """What will keep the rollout from going on, as far as `cluster` (nodes, storage classes,
    runtime classes; those that the user may list) shows it before."""
    kinds = {kind: [o for o in cluster if o["kind"] == kind] for kind in _kinds(cluster)}
    objects = list(tree)
    if live is not None and not is_rolled_out(live):
        yield "the last rollout has not ended yet"
    if "StorageClass" in kinds:
        for claim in (o for o in objects if o["kind"] == "PersistentVolumeClaim"):
            yield from _storage(claim, kinds["StorageClass"])
    for workload in (o for o in objects if o["kind"] in ("Deployment", "Job")):
        pod = pod_of(workload)
        yield from _nodes(workload, pod, kinds.get("Node", []), kubectl)
        if workload["kind"] == "Deployment":
            yield from _runtime(pod, kinds.get("RuntimeClass", []), kinds.get("Node", []))


def _kinds(objects: Iterable[Object]) -> set[str]:
    return {item["kind"] for item in objects}


def _storage(claim: Object, classes: list[Object]) -> Iterator[str]:
    name, wanted = claim["metadata"]["name"], claim["spec"].get("storageClassName")
    names = sorted(item["metadata"]["name"] for item in classes)
    defaults = [
        item
        for item in classes
        if (item["metadata"].get("annotations") or {}).get(_DEFAULT_CLASS) == "true"
    ]
    if wanted is None and not defaults:
        yield (
            f"claim {name} names no storage class, and the cluster has no default one; it has "
            + (", ".join(names) or "none")
        )
    elif wanted and wanted not in names:
        yield f"claim {name} names the storage class {wanted}; the cluster has {', '.join(names)}"


def _nodes(workload: Object, pod: Object, nodes: list[Object], kubectl: str) -> Iterator[str]:
    """Whether no node fits, even when it is empty."""
    closest = nearest(nodes, pod, {}, kubectl)
    if closest is not None and closest.faults:
        faults = ", and ".join(fault.text for fault in closest.faults)
        kind = workload["kind"].lower()
        yield (
            f"no node fits the pods of the {kind} {workload['metadata']['name']} now; the nearest, "
            f"{closest.node}, {faults}"
        )


def _runtime(pod: Object, classes: list[Object], nodes: list[Object]) -> Iterator[str]:
    """Whether the pod needs the RuntimeClass `nvidia`, which exists, and does not name it."""
    names = [item["metadata"]["name"] for item in classes]
    if "nvidia" not in names or pod["spec"].get("runtimeClassName"):
        return
    versions = {node["status"].get("nodeInfo", {}).get("kubeletVersion", "") for node in nodes}
    marks = {mark for mark in _OTHER_DEFAULT_RUNTIME for text in versions if mark in text}
    if marks:
        name = marks.pop().removeprefix("+")
        yield (
            f"{name} gives pods the GPU's driver only with the RuntimeClass nvidia, which the "
            "manifests do not name; build again with --runtime-class nvidia"
        )
    else:
        yield (
            "the cluster has a RuntimeClass nvidia, which the manifests do not name; if the "
            "server does not see a GPU, build again with --runtime-class nvidia"
        )
