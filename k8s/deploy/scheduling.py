"""Why a pod has no node."""

from __future__ import annotations

from collections.abc import Iterator

from .diagnosis import Diagnosis
from .nodes import nearest
from .requests import used
from .snapshot import Object, Snapshot, condition, is_ending, title

_SCALING = ("TriggeredScaleUp", "Nominated")
"""Events of the cluster autoscaler and of Karpenter, which make a node."""


def unscheduled(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """One diagnosis for each watched pod that the scheduler cannot place."""
    for pod in snapshot.watched_pods:
        refusal = condition(pod, "PodScheduled")
        if refusal.get("status") == "False":
            yield from _refused(snapshot, pod, refusal)


def is_refused(pod: Object) -> bool:
    """Whether the scheduler found no node for the pod."""
    return condition(pod, "PodScheduled").get("status") == "False"


def _refused(snapshot: Snapshot, pod: Object, refusal: Object) -> Iterator[Diagnosis]:
    message = refusal.get("message", "")
    if "unbound immediate PersistentVolumeClaims" in message or "persistentvolumeclaim" in message:
        return  # `claims` says why
    if "volume node affinity conflict" in message:
        yield Diagnosis(
            "volume-zone",
            f"{title(pod)}: the claim's volume cannot be used on the nodes that fit ({message})",
            "use a storage class whose volumes are made where the pod runs (volumeBindingMode "
            "WaitForFirstConsumer), or free a node in the volume's zone",
            heals=False,
        )
        return
    events = snapshot.events(pod)
    scaling = next((e["message"] for e in events if e.get("reason") in _SCALING), "")
    blocked = next((e["message"] for e in events if e.get("reason") == "NotTriggerScaleUp"), "")
    kubectl = snapshot.target.kubectl
    nodes = snapshot.of("Node")
    closest = nearest(nodes, pod, used(snapshot.of("Pod")), kubectl)
    note = f"; a node is being added: {scaling}" if scaling else ""
    if blocked:
        note = f"; the cluster autoscaler adds none: {blocked}"
    if closest is None or not closest.faults:
        yield Diagnosis(
            "unschedulable",
            f"{title(pod)}: {message or 'the scheduler has not placed it'}{note}",
            _look(snapshot, pod),
            heals=True,
        )
        return
    worst = closest.worst
    faults = ", and ".join(fault.text for fault in closest.faults)
    count = "the only node," if len(nodes) == 1 else f"the nearest of {len(nodes)} nodes,"
    if worst.cause == "no-free-node" and (holder := _ending(snapshot)):
        yield Diagnosis(
            "draining",
            f"{title(pod)}: waits until {title(holder)} has ended its requests and frees what it "
            "holds",
            f"wait; it has at most {holder['spec'].get('terminationGracePeriodSeconds', 30)} s",
            heals=True,
        )
        return
    heals = bool(scaling) or worst.cause in ("no-free-node", "node-unavailable")
    yield Diagnosis(
        worst.cause,
        f"{title(pod)}: no node fits; {count} {closest.node}, {faults}{note}",
        worst.action,
        heals=heals,
    )


def _ending(snapshot: Snapshot) -> Object | None:
    """An old pod that is ending."""
    return next(filter(is_ending, snapshot.old_pods), None)


def _look(snapshot: Snapshot, pod: Object) -> str:
    rights = " (your rights do not show the nodes)" if "Node" in snapshot.unreadable else ""
    name = pod["metadata"]["name"]
    return f"see {snapshot.target.kubectl} describe pod {name}{rights}"
