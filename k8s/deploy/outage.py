"""Whether a rollout interrupts the service, and for about how long."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from .snapshot import Object, condition, container_states, is_true

READ_BYTES_PER_S: Final = 500_000_000
"""What storage is assumed to give where nothing was measured. A bundle is read twice: its digests
are checked, and its weights are loaded."""

ENGINE_START_S: Final = 180
"""What an engine is assumed to take beside reading, where nothing was measured."""


@dataclass(frozen=True, slots=True)
class Outage:
    """What a rollout means for clients. `seconds` is about how long nothing serves: 0 without an
    outage; `measured` says that it is what the running pod took, not an assumption."""

    happens: bool
    seconds: int
    measured: bool
    reason: str


def outage(live: Object | None, new: Object, pods: list[Object], bundle_bytes: int) -> Outage:
    """What applying `new`, as the API server would store it, does to clients of the Deployment
    `live` (None: there is none) with its `pods`."""
    if live is None:
        return Outage(False, 0, False, "nothing is deployed under this name yet")
    if live["spec"]["template"] == new["spec"]["template"]:
        return Outage(False, 0, False, "the pods stay as they are")
    serving = live.get("status", {}).get("availableReplicas", 0)
    if not serving:
        return Outage(False, 0, False, "no pod serves now")
    kept, replicas = serving_during(new), new["spec"].get("replicas", 1)
    if kept >= replicas:
        return Outage(False, 0, False, "new pods are ready before old ones end")
    if kept > 0:
        return Outage(False, 0, False, f"{kept} of {replicas} pods serve throughout")
    seconds, measured = _start_seconds(pods, bundle_bytes)
    grace = live["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
    reason = (
        "the old pod ends before the new one starts, and its requests may take up to "
        f"{grace} s to end; with a spare GPU, build with --surge to avoid that"
    )
    return Outage(True, seconds, measured, reason)


def serving_during(deployment: Object) -> int:
    """How many replicas a rolling update keeps available."""
    spec = deployment["spec"]
    replicas = spec.get("replicas", 1)
    strategy = spec.get("strategy") or {}
    if strategy.get("type") == "Recreate":
        return 0
    rolling = strategy.get("rollingUpdate") or {}
    surge = _count(rolling.get("maxSurge", "25%"), replicas, math.ceil)
    unavailable = _count(rolling.get("maxUnavailable", "25%"), replicas, math.floor)
    if not surge and not unavailable:
        unavailable = 1  # as the Deployment controller does
    return int(max(replicas - unavailable, 0))


def _count(value: int | str, replicas: int, rounded: Callable[[float], int]) -> int:
    """A number of pods, or a percentage of them."""
    if isinstance(value, str):
        return rounded(int(value.removesuffix("%")) * replicas / 100)
    return value


def _start_seconds(pods: list[Object], bundle_bytes: int) -> tuple[int, bool]:
    """How long a pod takes from its node to ready, and whether that was measured."""
    measured = [seconds for pod in pods if (seconds := start_seconds(pod)) is not None]
    if measured:
        return round(max(measured)), True
    return round(2 * bundle_bytes / READ_BYTES_PER_S) + ENGINE_START_S, False


def start_seconds(pod: Object) -> float | None:
    """What a pod that is ready took for its start, by its own conditions; None where they do not
    tell: a restarted container, or one that was unready meanwhile, changes them."""
    if not is_true(pod, "Ready") or any(row.get("restartCount") for row in container_states(pod)):
        return None
    times = [_time(condition(pod, kind)) for kind in ("PodScheduled", "Ready")]
    if None in times:
        return None
    begun, ready = times
    assert begun is not None, "excluded above"
    assert ready is not None, "excluded above"
    return (ready - begun).total_seconds()


def _time(row: Object) -> datetime | None:
    text = row.get("lastTransitionTime")
    return datetime.fromisoformat(text) if text else None
