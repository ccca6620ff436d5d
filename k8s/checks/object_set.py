"""The objects that are applied together, and what rules look up in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from .fields import Field, Malformed
from .schemas import is_known
from .workloads import Workload, workloads_of

MANAGED_BY: Final = "app.kubernetes.io/managed-by"

_GROUPS: Final = {
    "Pod": "", "Service": "", "ServiceAccount": "", "ConfigMap": "", "Secret": "",
    "PersistentVolumeClaim": "",
    "Deployment": "apps", "StatefulSet": "apps",
    "Job": "batch",
    "NetworkPolicy": "networking.k8s.io",
    "PodDisruptionBudget": "policy",
    "HorizontalPodAutoscaler": "autoscaling",
    "ScaledObject": "keda.sh",
    "PodMonitor": "monitoring.coreos.com",
}  # fmt: skip
"""The API group of each kind that rules ask for: other projects have kinds of the same name."""


@dataclass(frozen=True, slots=True, eq=False)
class KubeObject:
    """One object of a file; `prefix` is its path where it is an item of a List."""

    file: str
    document: dict[str, Any]
    prefix: str = ""

    @property
    def root(self) -> Field:
        return Field(self.document, self.prefix, self)

    @property
    def api_version(self) -> str:
        return str(self.document["apiVersion"])

    @property
    def kind(self) -> str:
        return str(self.document["kind"])

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]

    @property
    def is_builtin(self) -> bool:
        """Whether Kubernetes itself defines its kind."""
        return is_known(self.kind, self.api_version)

    @property
    def metadata(self) -> Field:
        return self.root["metadata"]

    @property
    def name(self) -> str:
        return self.metadata["name"].text() or self.metadata["generateName"].text()

    @property
    def title(self) -> str:
        """`Kind/name`, as findings name it. Never fails."""
        metadata = self.document.get("metadata")
        names = metadata if isinstance(metadata, dict) else {}
        return f"{self.kind}/{names.get('name') or names.get('generateName') or '?'}"

    @property
    def namespace(self) -> str:
        return self.metadata["namespace"].text()

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata["labels"].labels()

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata["annotations"].labels()

    @property
    def is_ours(self) -> bool:
        """Whether nemo-deploy wrote it."""
        return self.labels.get(MANAGED_BY) == "nemo-deploy"

    def require_readable(self) -> None:
        """Raise `Malformed` unless it can be looked up: a name, a namespace, labels, annotations,
        and labels of the pods in it."""
        if not self.name:
            raise Malformed(self.metadata["name"], "the object's name")
        _ = self.namespace, self.labels, self.annotations
        for workload in workloads_of(self):
            _ = workload.labels, workload.annotations, workload.pod["resourceClaims"].items()

    def shares_namespace(self, other: KubeObject) -> bool:
        """Whether both may be in one namespace: where none is set, the one who applies chooses."""
        return self.namespace == other.namespace or not (self.namespace and other.namespace)


class ObjectSet:
    """Objects that are applied together. What a rule looks up, it looks up among these.

    All of them must be readable (`KubeObject.require_readable`).
    """

    def __init__(self, objects: Iterable[KubeObject]) -> None:
        self.objects = tuple(objects)

    @cached_property
    def workloads(self) -> tuple[Workload, ...]:
        """Everything that runs pods."""
        return tuple(w for item in self.objects for w in workloads_of(item))

    @cached_property
    def has_ours(self) -> bool:
        """Whether some of them run pods and were written by nemo-deploy."""
        return any(workload.owner.is_ours for workload in self.workloads)

    def of_kind(self, *kinds: str) -> Iterator[KubeObject]:
        """The objects of these kinds, in the API groups that Kubernetes has them in."""
        return (o for o in self.objects if o.kind in kinds and o.group == _GROUPS[o.kind])

    def named(self, kind: str, name: str, near: KubeObject) -> KubeObject | None:
        """The object of that name, in the namespace of the object `near`."""
        found = (o for o in self.of_kind(kind) if o.name == name and o.shares_namespace(near))
        return next(found, None)

    def selected(self, selector: Field) -> list[Workload]:
        """The workloads whose pods a label selector of an object selects."""
        return [
            w
            for w in self.workloads
            if w.owner.shares_namespace(selector.owner) and selects(selector, w.labels)
        ]

    def scalers(self, workload: Workload) -> list[KubeObject]:
        """The autoscalers of a workload."""
        return [
            scaler
            for scaler in self.of_kind("HorizontalPodAutoscaler", "ScaledObject")
            if self.scale_target(scaler) is workload
        ]

    def scale_target(self, scaler: KubeObject) -> Workload | None:
        """The workload that an autoscaler names."""
        target = scaler.root.at("spec", "scaleTargetRef")
        kind, name = target["kind"].text() or "Deployment", target["name"].text()
        return next(
            (
                w
                for w in self.workloads
                if (w.owner.kind, w.owner.name) == (kind, name) and w.owner.shares_namespace(scaler)
            ),
            None,
        )

    def replicas(self, workload: Workload) -> tuple[int, int]:
        """The fewest and the most replicas of a workload, with its autoscalers."""
        if not workload.is_scaled:
            return 1, 1
        spans = [
            (spec["minReplicas"].integer(1), spec["maxReplicas"].integer(1))
            if scaler.kind == "HorizontalPodAutoscaler"
            else (spec["minReplicaCount"].integer(0), spec["maxReplicaCount"].integer(100))
            for scaler in self.scalers(workload)
            for spec in [scaler.root["spec"]]
        ]
        spans = spans or [(workload.replicas, workload.replicas)]
        return min(low for low, _ in spans), max(high for _, high in spans)

    def budgets(self, workload: Workload) -> list[KubeObject]:
        """The disruption budgets that count the pods of a workload."""
        return [
            budget
            for budget in self.of_kind("PodDisruptionBudget")
            if workload in self.selected(budget.root.at("spec", "selector"))
        ]

    def policies(self, workload: Workload, direction: str) -> list[KubeObject]:
        """The network policies that isolate the pods of a workload, for `Ingress` or `Egress`."""
        return [
            policy
            for policy in self.of_kind("NetworkPolicy")
            if direction in policy_types(policy)
            and workload in self.selected(policy.root.at("spec", "podSelector"))
        ]


def policy_types(policy: KubeObject) -> list[str]:
    """The directions that a network policy is for."""
    spec = policy.root["spec"]
    default = ["Ingress", "Egress"] if spec["egress"].items() else ["Ingress"]
    return spec["policyTypes"].texts() or default


def selects(selector: Field, labels: dict[str, str]) -> bool:
    """Whether a label selector selects labels. An empty one selects all, a missing one none."""
    if not selector.is_set:
        return False
    if not selector["matchLabels"].labels().items() <= labels.items():
        return False
    return all(_holds(expression, labels) for expression in selector["matchExpressions"].items())


def _holds(expression: Field, labels: dict[str, str]) -> bool:
    key, operator = expression["key"].text(), expression["operator"].text()
    value, values = labels.get(key), expression["values"].texts()
    return {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }.get(operator, False)


def share(value: int | str | None, of: int) -> int | None:
    """A count, or a percentage of `of` rounded up, as disruption budgets round; None where it is
    neither."""
    if isinstance(value, str):
        digits = value.removesuffix("%")
        is_percentage = value.endswith("%") and digits.isdecimal() and len(digits) < 5
        return math.ceil(int(digits) * of / 100) if is_percentage else None
    return value


def workloads(objects: ObjectSet) -> Iterable[Workload]:
    """The subjects of a rule about everything that runs pods."""
    return objects.workloads


def kind(*kinds: str) -> Callable[[ObjectSet], Iterable[KubeObject]]:
    """The subjects of a rule about objects of these kinds."""
    return lambda objects: objects.of_kind(*kinds)


def every_object(objects: ObjectSet) -> Iterable[KubeObject]:
    """The subjects of a rule about all objects."""
    return objects.objects
