"""What a diagnosis of a rollout that stalls says, and every cause that there is."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

CAUSES: Final = {
    "no-matching-node": "No node has the labels that the pod requires. The message names the "
    "nearest node, the label, its value there, and the value nearest to it by spelling.",
    "no-resource": "Every node whose labels fit offers less of a resource than the pod requests, "
    "even when it is empty. GPUs that a node offers under another name (slices, shared GPUs) are "
    "named.",
    "taint": "The nearest node has a taint that the pod does not tolerate.",
    "node-unavailable": "The nearest node is cordoned or not ready.",
    "no-free-node": "A node fits, and other pods hold what the pod requests.",
    "draining": "An old pod still holds what the new one requests: it ends its requests first.",
    "volume-zone": "The claim's volume can be used only on nodes that do not fit the pod.",
    "unschedulable": "The scheduler gives a reason that nemo-deploy does not know.",
    "no-storage-class": "The claim names no storage class, and the cluster has no default one; or "
    "it names one that does not exist.",
    "claim-unbound": "The claim has a storage class, and no volume was made for it.",
    "claim-full": "The volume has no space left.",
    "volume-mount": "A volume cannot be attached or mounted, for example because a pod on another "
    "node uses it, or because a Secret or ConfigMap is missing.",
    "quota": "A ResourceQuota of the namespace is exceeded.",
    "pod-security": "Pod Security, or a security context constraint of OpenShift, refuses the pod.",
    "runtime-class": "The pod needs the RuntimeClass nvidia and does not name it, or names one "
    "that the cluster or the node does not have.",
    "admission": "The API server or an admission webhook refuses the pod for another reason.",
    "image": "The image is not pulled; the message quotes the registry's reason.",
    "container-config": "A container is not created: what its configuration names is missing, or "
    "the container runtime fails.",
    "crash": "A container ends with an error; the message quotes its last words.",
    "memory": "A container was killed because it exceeded its memory limit.",
    "probe": "A probe fails for longer than it may.",
    "job-failed": "The Job that fills the claim, or that of a load test, has failed for good.",
    "evicted": "A pod was evicted or preempted. Its controller starts another one.",
    "bundle-missing": "The claim does not hold this bundle yet, and nothing is filling it.",
    "disruption-budget": "Two PodDisruptionBudgets select the pods, so that evictions fail.",
    "superseded": "Somebody else has rolled out another bundle meanwhile.",
    "paused": "The Deployment is paused.",
    "deadline": "The rollout exceeded the Deployment's deadline, and no other cause shows.",
}
"""Every cause by the name that `--json` gives it."""


_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a rollout does not go on: the `cause` (a key of `CAUSES`), what was seen, what to do, and
    whether waiting may be enough."""

    cause: str
    message: str
    action: str
    heals: bool

    def __post_init__(self) -> None:
        assert self.cause in CAUSES, f"{self.cause} has no description"

    def printable(self) -> Diagnosis:
        """The same without control characters, which a container's last words may have."""
        return replace(self, message=_CONTROL.sub("", self.message))

    def __str__(self) -> str:
        return f"{self.message}; {self.action}"
