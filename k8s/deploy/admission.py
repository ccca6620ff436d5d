"""What the API server refuses when a controller, or this program, creates a pod."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ..quantities import parse_quantity
from .diagnosis import Diagnosis
from .snapshot import Object, Snapshot, condition

_REFUSED: Final = re.compile(r'^pods? "[^"]*" is forbidden: ')
_OVER: Final = re.compile(
    r"exceeded quota: (?P<quota>\S+), requested: (?P<requested>\S+), used: (?P<used>\S+), "
    r"limited: (?P<limited>\S+)"
)


def refused(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Pods that a controller could not create."""
    for controller in (snapshot.replica_set, snapshot.job):
        message = _failure(snapshot, controller) if controller else None
        if message:
            yield diagnose(message, snapshot.target.kubectl)


def _failure(snapshot: Snapshot, controller: Object) -> str | None:
    """Why the controller's last try to create a pod failed; None where a later one did not."""
    failure = condition(controller, "ReplicaFailure")
    if failure.get("status") == "True":
        return str(failure["message"])
    if controller["kind"] != "Job":
        return None
    if len(snapshot.job_pods) >= controller["spec"].get("parallelism", 1):
        return None
    events = snapshot.events(controller)
    if events and events[-1].get("reason") == "FailedCreate":
        return str(events[-1]["message"]).removeprefix("Error creating: ")
    return None


def diagnose(message: str, kubectl: str = "kubectl") -> Diagnosis:
    """What a refusal of a pod means."""
    reason = _REFUSED.sub("", " ".join(message.split()))
    if over := _OVER.search(reason):
        return Diagnosis(
            "quota",
            f"the namespace's quota {over['quota']} is exceeded: requested {over['requested']}, "
            f"used {over['used']}, limit {over['limited']}",
            f"free what it counts, or have it raised ({kubectl} describe quota {over['quota']})",
            heals=not _never(over["requested"], over["limited"]),
        )
    if "failed quota" in reason:
        action = (
            f"have the quota changed, or set what it requires in an overlay: {kubectl} get quota"
        )
        return Diagnosis("quota", f"the namespace's quota refuses the pod: {reason}", action, False)
    if violates := re.search(r'violates PodSecurity "([^"]+)": (.*)', reason):
        return Diagnosis(
            "pod-security",
            f"Pod Security level {violates[1]} refuses the pod: {violates[2]}",
            "remove what an overlay of your own added, or use a namespace with another level "
            "(label pod-security.kubernetes.io/enforce)",
            heals=False,
        )
    if "security context constraint" in reason:
        action = "build again with --platform openshift"
        return Diagnosis("pod-security", f"OpenShift refuses the pod: {reason}", action, False)
    if missing := re.search(r'RuntimeClass "([^"]+)" not found', reason):
        return Diagnosis(
            "runtime-class",
            f"the cluster has no RuntimeClass {missing[1]}",
            "install the GPU operator, which makes it, or build again without --runtime-class "
            f"({kubectl} get runtimeclass shows those there are)",
            heals=False,
        )
    action = "change what the message names, or ask whoever runs the cluster"
    return Diagnosis("admission", f"the API server refuses the pod: {reason}", action, False)


def _never(requested: str, limited: str) -> bool:
    """Whether the request alone exceeds a limit, such as `pods=1` and `pods=0`."""
    limits = dict(pair.split("=", 1) for pair in limited.split(",") if "=" in pair)
    pairs = (pair.split("=", 1) for pair in requested.split(",") if "=" in pair)
    return any(
        parse_quantity(amount) > parse_quantity(limits.get(name, amount)) for name, amount in pairs
    )
