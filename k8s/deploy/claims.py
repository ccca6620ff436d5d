"""What is wrong with a claim, or with mounting its volume."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from .diagnosis import Diagnosis
from .snapshot import Object, Snapshot, container_states, is_true, title

_NO_SPACE: Final = ("No space left on device", "ENOSPC", "Disk quota exceeded")
_MOUNT_EVENTS: Final = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")


def unbound(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Claims of watched pods that have no volume."""
    for claim in _claims(snapshot):
        phase = claim.get("status", {}).get("phase")
        if phase == "Lost":
            yield Diagnosis(
                "claim-unbound",
                f"claim {claim['metadata']['name']}: its volume is gone",
                f"delete the claim ({_delete(snapshot, claim)}) and run this command again",
                heals=False,
            )
        elif phase == "Pending":
            yield from _pending(snapshot, claim)


def _pending(snapshot: Snapshot, claim: Object) -> Iterator[Diagnosis]:
    name, wanted = claim["metadata"]["name"], claim["spec"].get("storageClassName")
    classes = {item["metadata"]["name"]: item for item in snapshot.of("StorageClass")}
    known = ", ".join(sorted(classes)) or "none"
    again = (
        "build again with --storage-class NAME, delete the claim "
        f"({_delete(snapshot, claim)}) and run this command again"
    )
    if not wanted and "StorageClass" not in snapshot.unreadable:
        yield Diagnosis(
            "no-storage-class",
            f"claim {name}: names no storage class, and the cluster has no default one; it has "
            f"{known}",
            again,
            heals=False,
        )
        return
    if wanted and wanted not in classes and "StorageClass" not in snapshot.unreadable:
        near = get_close_matches(wanted, classes, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; it has {known}"
        text = f"claim {name}: the cluster has no storage class {wanted}{hint}"
        yield Diagnosis("no-storage-class", text, again, heals=False)
        return
    events = snapshot.events(claim)
    reason = next((e for e in reversed(events) if e.get("type") == "Warning"), None)
    if reason is None:
        reason = next((e for e in reversed(events) if e.get("reason") == "FailedBinding"), None)
    if reason is not None:
        yield Diagnosis(
            "claim-unbound",
            f"claim {name} ({_size(claim)}): {reason['message']} (storage class {wanted})",
            f"see {snapshot.target.kubectl} describe pvc {name}; a claim that asks for another "
            "size or access mode may be bound",
            heals=True,
        )


def _size(claim: Object) -> str:
    """What a claim asks for: size and access modes."""
    spec = claim["spec"]
    return f"{spec['resources']['requests']['storage']}, {' and '.join(spec['accessModes'])}"


def full(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Containers that ended because a volume has no space left."""
    for pod in snapshot.watched_pods:
        for status in container_states(pod):
            for key in ("state", "lastState"):
                message = (status.get(key, {}).get("terminated") or {}).get("message") or ""
                if any(text in message for text in _NO_SPACE):
                    claims = ", ".join(_claim_names(pod)) or "its volume"
                    yield Diagnosis(
                        "claim-full",
                        f"{title(pod)}: no space is left on {claims}",
                        "enlarge the claim (spec.resources.requests.storage, where its storage "
                        "class allows that), or keep fewer bundles on it",
                        heals=False,
                    )
                    return


def unmounted(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Volumes that the node cannot attach or mount."""
    for pod in snapshot.watched_pods:
        if is_true(pod, "Initialized") and is_true(pod, "ContainersReady"):
            continue
        if any((s.get("state") or {}).get("running") for s in container_states(pod)):
            continue
        failed = [e for e in snapshot.events(pod) if e.get("reason") in _MOUNT_EVENTS]
        if not failed:
            continue
        message = " ".join(failed[-1]["message"].split())
        action = f"see {snapshot.target.kubectl} describe pod {pod['metadata']['name']}"
        if "Multi-Attach" in message:
            action = (
                "wait until the pod on the other node has ended, or use a storage class with "
                "ReadWriteMany or ReadOnlyMany"
            )
        elif "not found" in message:
            action = "create the object that the message names"
        yield Diagnosis("volume-mount", f"{title(pod)}: {message}", action, heals=True)


def _claims(snapshot: Snapshot) -> Iterator[Object]:
    """The claims that watched pods mount."""
    names = {name for pod in snapshot.watched_pods for name in _claim_names(pod)}
    for claim in snapshot.of("PersistentVolumeClaim"):
        if claim["metadata"]["name"] in names:
            yield claim


def _claim_names(pod: Object) -> list[str]:
    volumes = pod["spec"].get("volumes") or ()
    sources = (volume.get("persistentVolumeClaim") for volume in volumes)
    return [source["claimName"] for source in sources if source]


def _delete(snapshot: Snapshot, claim: Object) -> str:
    return f"{snapshot.target.kubectl} delete pvc {claim['metadata']['name']}"
