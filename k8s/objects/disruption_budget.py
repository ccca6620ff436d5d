"""The PodDisruptionBudget: one eviction at a time."""

from __future__ import annotations

from ..manifests import Manifests
from ..names import selector
from .metadata import new

_COMMENT = """\
Allows one eviction at a time. With minAvailable, a single replica would block every
node drain. A pod that is not ready never blocks a drain."""


def disruption_budget(manifests: Manifests) -> None:
    """The budget of the serving pods."""
    name = manifests.release.name
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": selector(name)},
    }
    document = new("policy/v1", "PodDisruptionBudget", name, spec=spec)
    manifests.add("poddisruptionbudget.yaml", document, _COMMENT)
