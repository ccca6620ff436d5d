"""How far the pods of a load test are."""

from __future__ import annotations

from typing import Final

from ..deploy.snapshot import Snapshot, has_failed, is_ending, is_true
from ..deploy.stages import Position

STARTING: Final = {
    "load-scheduled": "Nodes for the load test",
    "load-pulling": "Load test's image",
    "load-ready": "Load test's pods",
}
"""The stages of the pods of a load test, in their order, with their titles."""


def starting(snapshot: Snapshot) -> Position:
    """Where the pods are: at the stage of the one that is least far."""
    job = snapshot.job
    if job is None:
        return Position("load-scheduled", "the Job is being created")
    wanted = job["spec"]["parallelism"]
    pods = [pod for pod in snapshot.job_pods if not (is_ending(pod) or has_failed(pod))]
    placed = sum(is_true(pod, "PodScheduled") for pod in pods)
    ready = sum(is_true(pod, "Ready") for pod in pods)
    if placed < wanted:
        return Position("load-scheduled", f"{placed} of {wanted}", ready=ready, wanted=wanted)
    if ready < wanted:
        return Position("load-pulling", f"{ready} of {wanted} run", ready=ready, wanted=wanted)
    return Position("load-ready", f"{ready} of {wanted}", done=True, ready=ready, wanted=wanted)
