"""What a cluster says about one deployment at one moment: API objects, sorted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Object = dict[str, Any]
"""One Kubernetes object."""

_REVISION: Final = "deployment.kubernetes.io/revision"


@dataclass(frozen=True, slots=True)
class Target:
    """What is deployed: the names of the Deployment (None while the claim is filled, because it
    has not been changed yet, or is not of interest) and of a Job, which fills its claim or sends
    load (None: there is none), the bundle's digest and path, how a person's kubectl command begins,
    and whether the Job stays when the command ends."""

    deployment: str | None
    job: str | None
    digest: str
    bundle: str
    kubectl: str = "kubectl"
    keeps_job: bool = True


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The objects of `target` and around it. `unreadable` are the kinds that the user may not list;
    `logs` the ends of containers' logs by `POD/CONTAINER`."""

    target: Target
    objects: tuple[Object, ...]
    unreadable: frozenset[str] = field(default=frozenset())
    logs: Mapping[str, str] = field(default_factory=dict)

    def log(self, pod: Object, container: str) -> list[str]:
        """The last lines of a container's log that were read."""
        return self.logs.get(f"{pod['metadata']['name']}/{container}", "").splitlines()

    def of(self, kind: str) -> list[Object]:
        """Every object of a kind."""
        return [item for item in self.objects if item["kind"] == kind]

    def named(self, kind: str, name: str | None) -> Object | None:
        """The object of that kind and name."""
        return next((o for o in self.of(kind) if o["metadata"]["name"] == name), None)

    @property
    def deployment(self) -> Object | None:
        return self.named("Deployment", self.target.deployment)

    @property
    def job(self) -> Object | None:
        return self.named("Job", self.target.job)

    @property
    def job_pods(self) -> list[Object]:
        """The pods of the Job, the newest first."""
        return self._newest_first(p for p in self.of("Pod") if self.job and owned(p, self.job))

    @property
    def replica_set(self) -> Object | None:
        """The ReplicaSet of the Deployment's present template, once there is one."""
        deployment = self.deployment
        if deployment is None or not is_observed(deployment):
            return None
        revision = annotations_of(deployment).get(_REVISION)
        own = (r for r in self.of("ReplicaSet") if owned(r, deployment))
        return next((r for r in own if annotations_of(r).get(_REVISION) == revision), None)

    @property
    def new_pods(self) -> list[Object]:
        """The pods of the present template that have not failed and are not ending, the newest
        first."""
        replica_set = self.replica_set
        pods = (p for p in self.of("Pod") if replica_set and owned(p, replica_set))
        return self._newest_first(p for p in pods if not is_ending(p) and not has_failed(p))

    @property
    def old_pods(self) -> list[Object]:
        """The Deployment's other pods that have not failed."""
        new = {pod["metadata"]["uid"] for pod in self.new_pods}
        sets = [r for r in self.of("ReplicaSet") if self.deployment and owned(r, self.deployment)]
        pods = [pod for pod in self.of("Pod") if any(owned(pod, owner) for owner in sets)]
        return [p for p in pods if p["metadata"]["uid"] not in new and not has_failed(p)]

    @property
    def failed_pods(self) -> list[Object]:
        """The pods of the Job and of the present template that have failed, the newest first."""
        owners = [owner for owner in (self.job, self.replica_set) if owner]
        pods = (p for p in self.of("Pod") if any(owned(p, owner) for owner in owners))
        return self._newest_first(p for p in pods if has_failed(p))

    @property
    def watched_pods(self) -> list[Object]:
        """The pods whose problems are this rollout's: those of the Job that have not failed (else
        the newest), and the new ones."""
        active = [pod for pod in self.job_pods if not has_failed(pod)]
        return [*(active or self.job_pods[:1]), *self.new_pods]

    def events(self, about: Object) -> list[Object]:
        """The events about an object, the latest last."""
        uid = about["metadata"].get("uid")
        mine = [e for e in self.of("Event") if e.get("involvedObject", {}).get("uid") == uid]
        return sorted(mine, key=_event_time)

    @staticmethod
    def _newest_first(pods: Iterator[Object]) -> list[Object]:
        return sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"], reverse=True)


def _event_time(event: Object) -> str:
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
    )


def title(item: Object) -> str:
    """How messages name an object: `pod NAME`."""
    return f"{item['kind'].lower()} {item['metadata']['name']}"


def annotations_of(item: Object) -> dict[str, str]:
    """The annotations of an object, or of a template."""
    return item.get("metadata", {}).get("annotations") or {}


def owned(item: Object, owner: Object) -> bool:
    """Whether `owner` controls the object."""
    references = item["metadata"].get("ownerReferences") or ()
    return any(reference["uid"] == owner["metadata"]["uid"] for reference in references)


def is_observed(item: Object) -> bool:
    """Whether the object's controller has seen its present specification."""
    seen = item.get("status", {}).get("observedGeneration", 0)
    return bool(seen >= item["metadata"].get("generation", 0))


def is_ending(pod: Object) -> bool:
    """Whether the pod was asked to end."""
    return "deletionTimestamp" in pod["metadata"]


def has_failed(pod: Object) -> bool:
    """Whether the pod has failed for good: its controller makes another one."""
    return bool(pod.get("status", {}).get("phase") == "Failed")


def condition(item: Object, kind: str) -> Object:
    """The condition of that type; empty where there is none."""
    rows = item.get("status", {}).get("conditions") or ()
    return next((dict(row) for row in rows if row["type"] == kind), {})


def is_true(item: Object, kind: str) -> bool:
    """Whether the condition of that type is true."""
    return condition(item, kind).get("status") == "True"


def container_states(pod: Object) -> Iterator[Object]:
    """The status of every container that has one, in the order in which they start."""
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def tolerated(taint: Object, tolerations: list[Object]) -> bool:
    """Whether one of a pod's tolerations covers a node's taint."""
    return any(
        row.get("effect") in (None, "", taint["effect"])
        and (
            (row.get("operator") == "Exists" and row.get("key") in (None, "", taint["key"]))
            or (row.get("key") == taint["key"] and row.get("value", "") == taint.get("value", ""))
        )
        for row in tolerations
    )
