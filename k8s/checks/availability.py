"""Rules for replicas, rollouts, evictions and autoscalers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .findings import ERROR, WARNING, Problem, Rule
from .object_set import KubeObject, ObjectSet, kind, selects, share, workloads
from .workloads import Workload


def surge(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A percentage, or nothing, is a new pod beside the old one, for which there may be no GPU.
    Where a GPU is spare, it is one new pod, and no old one ends before it is ready."""
    if workload.owner.kind != "Deployment":
        return
    strategy = workload.owner.root.at("spec", "strategy")
    update = strategy["rollingUpdate"]
    if strategy["type"].text() == "Recreate":
        return
    extra, fewer = update["maxSurge"], update["maxUnavailable"]
    if not isinstance(extra.number_or_text(), int):
        yield extra.problem("a rollout starts a pod for which there may be no GPU")
    elif extra.integer(0) and fewer.number_or_text() != 0:
        yield fewer.problem("a rollout both needs a spare GPU and ends an old pod first")
    elif not extra.integer(0) and fewer.number_or_text() in (0, "0%"):
        yield fewer.problem("a rollout can neither start a new pod nor end an old one")


def spreading_missing(workload: Workload, objects: ObjectSet) -> Iterator[Problem]:
    """Replicas on one node end together."""
    if objects.replicas(workload)[1] < 2:
        return
    spread = workload.pod["topologySpreadConstraints"]
    apart = workload.pod.at("affinity", "podAntiAffinity")
    selectors = [constraint["labelSelector"] for constraint in spread.items()]
    for term in apart["requiredDuringSchedulingIgnoredDuringExecution"].items():
        selectors.append(term["labelSelector"])
    for term in apart["preferredDuringSchedulingIgnoredDuringExecution"].items():
        selectors.append(term.at("podAffinityTerm", "labelSelector"))
    if not any(selects(selector, workload.labels) for selector in selectors):
        yield spread.problem(f"{objects.replicas(workload)[1]} replicas may be on one node")


def single_writer(workload: Workload, objects: ObjectSet) -> Iterator[Problem]:
    """A ReadWriteOnce volume is attached to one node: the pods on others wait for ever."""
    most = objects.replicas(workload)[1]
    extra = workload.owner.root.at("spec", "strategy", "rollingUpdate", "maxSurge")
    surges = isinstance(extra.value, int) and extra.value > 0
    if workload.owner.kind not in ("Deployment", "ReplicaSet") or not (most > 1 or surges):
        return
    for volume in workload.pod["volumes"].items():
        name = volume.at("persistentVolumeClaim", "claimName").text()
        claim = objects.named("PersistentVolumeClaim", name, workload.owner) if name else None
        if claim is None:
            continue
        modes = claim.root.at("spec", "accessModes")
        if modes.texts() and not {"ReadWriteMany", "ReadOnlyMany"} & {*modes.texts()}:
            yield modes.problem(f"{max(most, 2)} pods of {workload.owner.title} use this claim")


def budget_missing(workload: Workload, objects: ObjectSet) -> Iterator[Problem]:
    """Draining nodes may evict all replicas at once. A budget that selects nothing is meant for
    some pods, and another rule finds it."""
    astray = not all(
        objects.selected(b.root.at("spec", "selector"))
        for b in objects.of_kind("PodDisruptionBudget")
    )
    if not workload.is_scaled or objects.budgets(workload) or astray:
        return
    if workload.owner.is_ours or workload.is_server or objects.replicas(workload)[1] > 1:
        yield workload.owner.metadata["name"].problem("no PodDisruptionBudget counts its pods")


def budget_blocks(budget: KubeObject, objects: ObjectSet) -> Iterator[Problem]:
    """No pod can ever be evicted, and nodes cannot be drained."""
    spec = budget.root["spec"]
    least, most = spec["minAvailable"], spec["maxUnavailable"]
    for workload in objects.selected(spec["selector"]):
        replicas = max(1, objects.replicas(workload)[0])
        kept, lost = (share(f.number_or_text(), replicas) for f in (least, most))
        if kept is not None and kept >= replicas:
            yield least.problem(f"none of {replicas} pods may be evicted")
        elif lost is not None and lost <= 0:
            yield most.problem(f"none of {replicas} pods may be evicted")


def budget_unhealthy(budget: KubeObject, _: ObjectSet) -> Iterator[Problem]:
    """A pod that is not ready blocks the drain of its node."""
    policy = budget.root.at("spec", "unhealthyPodEvictionPolicy")
    if policy.text() != "AlwaysAllow":
        yield policy.problem("pods that are not ready block the drain of their node")


def scaled_replicas(scaler: KubeObject, objects: ObjectSet) -> Iterator[Problem]:
    """Every apply resets what the autoscaler chose."""
    workload = objects.scale_target(scaler)
    replicas = workload.owner.root.at("spec", "replicas") if workload else None
    if replicas is not None and replicas.is_set:
        yield replicas.problem(f"{scaler.title} sets the number of replicas, too")


def scale_target_missing(scaler: KubeObject, objects: ObjectSet) -> Iterator[Problem]:
    """It scales nothing."""
    target = scaler.root.at("spec", "scaleTargetRef")
    title = f"{target['kind'].text() or 'Deployment'}/{target['name'].text()}"
    if title not in (o.title for o in objects.objects if o.shares_namespace(scaler)):
        yield target.problem("names no workload of these manifests")


def scale_metric_missing(scaler: KubeObject, _: ObjectSet) -> Iterator[Problem]:
    """Without a metric, the processor's load decides, which says nothing about a model server."""
    name = "metrics" if scaler.kind == "HorizontalPodAutoscaler" else "triggers"
    metrics = scaler.root.at("spec", name)
    old = scaler.root.at("spec", "targetCPUUtilizationPercentage")
    if not metrics.items() and not old.is_set:
        yield metrics.problem("names no metric")


def scale_range(scaler: KubeObject, _: ObjectSet) -> Iterator[Problem]:
    """The API server refuses it, or nothing is ever scaled."""
    spec, suffix = scaler.root["spec"], "Replicas"
    if scaler.kind == "ScaledObject":
        suffix = "ReplicaCount"
    least, most = spec[f"min{suffix}"], spec[f"max{suffix}"]
    if most.is_set and most.integer(1) < max(1, least.integer(1)):
        yield most.problem(f"is below the least number of replicas, {least.integer(1)}")


def single_replica(workload: Workload, objects: ObjectSet) -> Iterator[Problem]:
    """Nothing serves while its pod is replaced. GPUs are too dear for asking this of them."""
    if workload.is_server or workload.owner.kind != "Deployment" or not workload.ports():
        return
    if objects.replicas(workload)[1] < 2:
        yield workload.owner.root.at("spec", "replicas").problem("there is one replica")


RULES: Final[tuple[Rule[Workload] | Rule[KubeObject], ...]] = (
    Rule(
        "surge",
        workloads,
        surge,
        "Set maxSurge to 0 and maxUnavailable to 1, or with a spare GPU to 1 and 0",
    ),
    Rule(
        "spreading-missing",
        workloads,
        spreading_missing,
        "Add a topologySpreadConstraint over kubernetes.io/hostname for the pod's labels",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "single-writer",
        workloads,
        single_writer,
        "Use ReadWriteMany or ReadOnlyMany, if the storage class supports it",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "budget-missing",
        workloads,
        budget_missing,
        "Add a PodDisruptionBudget with maxUnavailable: 1 that selects them",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "budget-blocks",
        kind("PodDisruptionBudget"),
        budget_blocks,
        "Set maxUnavailable: 1",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "budget-unhealthy",
        kind("PodDisruptionBudget"),
        budget_unhealthy,
        "Set unhealthyPodEvictionPolicy: AlwaysAllow",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "scaled-replicas",
        kind("HorizontalPodAutoscaler", "ScaledObject"),
        scaled_replicas,
        "Remove replicas from the workload",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "scale-target-missing",
        kind("HorizontalPodAutoscaler", "ScaledObject"),
        scale_target_missing,
        "Name the workload by its kind and name",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "scale-metric-missing",
        kind("HorizontalPodAutoscaler", "ScaledObject"),
        scale_metric_missing,
        "Scale on the server's own queue",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "scale-range",
        kind("HorizontalPodAutoscaler", "ScaledObject"),
        scale_range,
        "Raise the largest number of replicas",
        ERROR,
        ERROR,
        ERROR,
    ),
    Rule(
        "single-replica",
        workloads,
        single_replica,
        "Set two replicas or more",
        None,
        None,
        WARNING,
    ),
)
