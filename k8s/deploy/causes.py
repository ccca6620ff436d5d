"""Why a rollout stalls: every check of a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from . import admission, claims, containers, controllers, scheduling
from .diagnosis import Diagnosis
from .snapshot import Snapshot

Check = Callable[[Snapshot], Iterator[Diagnosis]]

_CHECKS: Final[tuple[Check, ...]] = (
    controllers.superseded,
    controllers.paused,
    admission.refused,
    claims.unbound,
    claims.full,
    scheduling.unscheduled,
    claims.unmounted,
    containers.not_pulled,
    containers.not_created,
    containers.crashed,
    containers.probed,
    controllers.job_failed,
    controllers.bundle_missing,
    controllers.evicted,
    controllers.two_budgets,
)
"""In the order in which their results are shown: what causes others comes first."""


def causes(snapshot: Snapshot) -> tuple[Diagnosis, ...]:
    """Everything that keeps the rollout from going on, each once.

    That it is late is said only where no other cause shows.
    """
    found = [diagnosis.printable() for check in _CHECKS for diagnosis in check(snapshot)]
    unique = {(row.cause, row.message): row for row in found}
    return tuple(unique.values()) or tuple(controllers.late(snapshot))
