"""How far a rollout is: the stages of the Job that fills the claim, and of the new pods."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from ...runtime.contract import GOLDEN_BEGINS
from ..names import CHECK, FILL, TRITON
from .snapshot import Object, Snapshot, condition, container_states, is_observed, is_true

PROGRESS: Final = "nemo-deploy progress "
"""How a line of a log begins that reports progress; a JSON object follows."""

WAITING: Final = "waiting"
"""The step of a container that waits for a bundle."""

_LARGEST: Final = 1e18
"""Amounts, rates and seconds of a log beyond this are none."""

FILLING: Final = {
    "fill-scheduled": "Node for the Job",
    "fill-pulling": "Job's image",
    "filling": "Filling the claim",
}
"""The stages of the Job, in their order, with their titles."""

ROLLOUT: Final = {
    "scheduled": "Node",
    "pulling": "Image and volumes",
    "verifying": "Checking the bundle",
    "loading": "Loading the model",
    "golden": "Golden outputs",
    "ready": "Ready",
}
"""The stages of a server's pod."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a container says about its work: `done` of `total` (both in `unit`), the rate, and the
    seconds left; None where it does not know."""

    step: str
    done: float | None = None
    total: float | None = None
    unit: str = ""
    per_second: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where a phase is: the stage at hand, what to say about it, the container's own progress, and
    whether the phase is done. `ready` of `wanted` pods serve the new bundle."""

    stage: str
    detail: str = ""
    progress: Progress | None = None
    done: bool = False
    ready: int = 0
    wanted: int = 1


def filling(snapshot: Snapshot) -> Position:
    """Where the Job is that fills the claim."""
    job = snapshot.job
    if job is None:
        return Position("fill-scheduled", "the Job is being created")
    if is_true(job, "Complete"):
        return Position("filling", "the claim is filled", done=True, ready=1)
    if not snapshot.job_pods:
        return Position("fill-scheduled", "the pod is being created")
    pod = snapshot.job_pods[0]
    if not is_true(pod, "PodScheduled"):
        return Position("fill-scheduled", "waits for a node")
    if not _has_started(pod, FILL):
        return Position("fill-pulling", _on(pod))
    return Position("filling", _on(pod), progress_in(snapshot.log(pod, FILL)))


def rollout(snapshot: Snapshot) -> Position:
    """Where the Deployment is: at the stage of the new pod that is least far."""
    deployment = snapshot.deployment
    if deployment is None or not is_observed(deployment):
        return Position("scheduled", "the Deployment is being changed")
    wanted = deployment["spec"].get("replicas", 1)
    status, pods = deployment.get("status", {}), snapshot.new_pods
    ready = sum(is_true(pod, "Ready") for pod in pods)
    if is_rolled_out(deployment):
        return Position("ready", f"{ready} of {wanted}", done=True, ready=ready, wanted=wanted)
    if not pods:
        old = len(snapshot.old_pods)
        detail = f"{old} old pods are ending" if old else "the pod is being created"
        return Position("scheduled", detail, wanted=wanted)
    order = list(ROLLOUT)
    positions = [_of_pod(snapshot, pod) for pod in pods]
    least = min(positions, key=lambda position: order.index(position.stage))
    count = f"{ready} of {wanted} ready" if wanted > 1 else ""
    if least.stage == "ready" and status.get("replicas", 0) > wanted:
        count = f"{count}, the old pods are ending".removeprefix(", ")
    detail = "; ".join(text for text in (least.detail, count) if text)
    return Position(least.stage, detail, least.progress, ready=ready, wanted=wanted)


def is_rolled_out(deployment: Object) -> bool:
    """Whether exactly the pods of the present template serve."""
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    counts = [status.get(f"{which}eplicas", 0) for which in ("r", "updatedR", "availableR")]
    return is_observed(deployment) and counts == [wanted] * 3


def _of_pod(snapshot: Snapshot, pod: Object) -> Position:
    if not is_true(pod, "PodScheduled"):
        waits = condition(pod, "PodScheduled").get("status") == "False"
        return Position("scheduled", "waits for a node" if waits else "")
    if is_true(pod, "Ready"):
        return Position("ready", _on(pod))
    if not _has_started(pod, TRITON) and not _has_passed(pod, CHECK):
        if not _has_started(pod, CHECK):
            return Position("pulling", _on(pod))
        return Position("verifying", _on(pod), progress_in(snapshot.log(pod, CHECK)))
    begun = any(GOLDEN_BEGINS in line for line in snapshot.log(pod, TRITON))
    return Position("golden" if begun else "loading", _on(pod))


def _has_started(pod: Object, container: str) -> bool:
    """Whether the container runs, or has ended at least once."""
    rows = [row for row in container_states(pod) if row["name"] == container]
    states = [{**(row.get("lastState") or {}), **(row.get("state") or {})} for row in rows]
    return any("running" in state or "terminated" in state for state in states)


def _has_passed(pod: Object, container: str) -> bool:
    """Whether an init container has ended well."""
    rows = (row for row in container_states(pod) if row["name"] == container)
    ended = ((row.get("state") or {}).get("terminated") for row in rows)
    return any(state is not None and not state.get("exitCode") for state in ended)


def _on(pod: Object) -> str:
    node = pod["spec"].get("nodeName", "")
    return f"{pod['metadata']['name']} on {node}" if node else pod["metadata"]["name"]


def progress_in(lines: Iterable[str]) -> Progress | None:
    """The last progress that a log reports."""
    found: Progress | None = None
    for line in lines:
        if line.startswith(PROGRESS):
            found = _parsed(line.removeprefix(PROGRESS)) or found
    return found


def _parsed(text: str) -> Progress | None:
    """A progress report; None for text that is none."""
    try:
        row: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), str):
        return None
    numbers = {key: row.get(key) for key in ("done", "total", "per_second", "seconds_left")}
    if not all(_is_number(value) for value in numbers.values()):
        return None
    return Progress(step=row["step"], unit=str(row.get("unit") or ""), **numbers)


def _is_number(value: object) -> bool:
    """Whether a JSON value is a number that can be shown, or null; `true` is neither."""
    if value is None or isinstance(value, bool):
        return value is None
    return isinstance(value, (int, float)) and 0 <= value < _LARGEST
