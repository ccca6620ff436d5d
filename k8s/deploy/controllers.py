"""What Deployment, Job and PodDisruptionBudget say, beyond their pods."""

from __future__ import annotations

from collections.abc import Iterator

from ..names import BUNDLE_DIGEST, CHECK
from .containers import last_words
from .diagnosis import Diagnosis
from .snapshot import (
    Object,
    Snapshot,
    annotations_of,
    condition,
    container_states,
    is_true,
    title,
)
from .stages import WAITING, progress_in


def superseded(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Another rollout of the same Deployment."""
    deployment, wanted = snapshot.deployment, snapshot.target.digest
    if deployment is None:
        return
    digest = annotations_of(deployment["spec"]["template"]).get(BUNDLE_DIGEST, "")
    if digest != wanted:
        now = f"the bundle {digest[:10]}" if digest else "a pod template without a bundle's name"
        yield Diagnosis(
            "superseded",
            f"deployment {deployment['metadata']['name']}: it now has {now}, no longer "
            f"{wanted[:10]}",
            f"see who changed it: {snapshot.target.kubectl} get deployment "
            f"{deployment['metadata']['name']} -o yaml --show-managed-fields",
            heals=False,
        )


def paused(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """A Deployment whose rollout somebody stopped."""
    deployment = snapshot.deployment
    if deployment is not None and deployment["spec"].get("paused"):
        name = deployment["metadata"]["name"]
        action = f"resume it: {snapshot.target.kubectl} rollout resume deployment/{name}"
        yield Diagnosis("paused", f"deployment {name} is paused", action, heals=False)


def job_failed(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """The Job has given up, or one of its pods has failed."""
    job = snapshot.job
    if job is None or is_true(job, "Complete"):
        return
    words = _last_failure(snapshot.job_pods)
    name, failed = job["metadata"]["name"], condition(job, "Failed")
    kubectl = snapshot.target.kubectl
    if failed.get("status") == "True":
        action = "remove the cause and run this command again"
        if snapshot.target.keeps_job:
            action = (
                f"remove the cause, delete the Job ({kubectl} delete job {name}) and run this "
                "command again; finished parts are kept on the claim"
            )
        yield Diagnosis(
            "job-failed",
            f"job {name} has failed ({failed.get('reason')}: {failed.get('message')}){words}",
            action,
            heals=False,
        )
    elif words:
        action = f"see {kubectl} logs job/{name}; the Job tries again"
        yield Diagnosis("crash", f"job {name}: a pod has failed{words}", action, heals=True)


def _last_failure(pods: list[Object]) -> str:
    """The last words of the newest pod that failed, as a clause."""
    for pod in pods:
        for status in container_states(pod):
            for key in ("state", "lastState"):
                ended = (status.get(key) or {}).get("terminated") or {}
                if ended.get("exitCode"):
                    reason = last_words(ended.get("message") or "") or ended.get("reason")
                    return f"; {title(pod)} ended with exit code {ended['exitCode']}: {reason}"
    return ""


def bundle_missing(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Server's pods that wait for a bundle that nothing brings to the claim."""
    job, target = snapshot.job, snapshot.target
    if job is not None and not is_true(job, "Complete"):
        return
    for pod in snapshot.new_pods[:1]:
        progress = progress_in(snapshot.log(pod, CHECK))
        if progress is None or progress.step != WAITING:
            continue
        text = f"{title(pod)}: the claim does not hold the bundle {target.digest[:10]}"
        if job is None:
            action = f"copy it there: nemo-deploy push {target.bundle}"
            yield Diagnosis("bundle-missing", text, action, heals=True)
            continue
        name = job["metadata"]["name"]
        yield Diagnosis(
            "bundle-missing",
            f"{text}, although job {name} has ended: it was deleted from there",
            f"delete the Job ({target.kubectl} delete job {name}) and run this command again",
            heals=False,
        )


def evicted(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Whether the pod that failed last was evicted or preempted."""
    for pod in snapshot.failed_pods[:1]:
        disruption, status = condition(pod, "DisruptionTarget"), pod.get("status", {})
        if status.get("reason") == "Evicted" or disruption.get("status") == "True":
            reason = status.get("message") or disruption.get("message") or disruption.get("reason")
            text = f"{title(pod)} was evicted: {' '.join(str(reason).split())}"
            action = "wait for the next pod; free what the node lacks if that happens again"
            yield Diagnosis("evicted", text, action, heals=True)


def two_budgets(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """More than one PodDisruptionBudget for the server's pods: the eviction API then refuses."""
    for pod in snapshot.new_pods[:1]:
        labels = pod["metadata"].get("labels") or {}
        names = sorted(
            budget["metadata"]["name"]
            for budget in snapshot.of("PodDisruptionBudget")
            if _selects(budget["spec"].get("selector") or {}, labels)
        )
        if len(names) > 1:
            text = f"the disruption budgets {' and '.join(names)} select the same pods"
            action = "delete one of them: with two, nodes cannot be drained"
            yield Diagnosis("disruption-budget", text, action, heals=True)


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector that has labels only selects an object with `labels`."""
    wanted = selector.get("matchLabels") or {}
    return not selector.get("matchExpressions") and wanted.items() <= labels.items()


def late(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """A rollout that is over its deadline."""
    deployment = snapshot.deployment
    if deployment is None:
        return
    progress = condition(deployment, "Progressing")
    if progress.get("reason") == "ProgressDeadlineExceeded":
        name = deployment["metadata"]["name"]
        action = f"see {snapshot.target.kubectl} describe deployment {name}"
        yield Diagnosis("deadline", f"deployment {name}: {progress['message']}", action, heals=True)
