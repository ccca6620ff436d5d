"""How many pods serve, and in which order a rollout exchanges them."""

from __future__ import annotations

from ..manifests import DEPLOYMENT, Manifests

_ONE_BY_ONE = """\
maxSurge is 0 because a rollout usually has no spare GPU: a pod ends before its successor starts.
With one replica, nothing is served in between (--surge where a GPU is spare)."""

_SURGE = (
    "A rollout starts the new pod first, on a spare GPU, and ends the old one when it is ready."
)

_AUTOSCALED = "There are no replicas here: the autoscaler sets their number."


def rollout(manifests: Manifests) -> None:
    """Replicas and strategy."""
    options, spec = manifests.release.options, manifests.deployment["spec"]
    surge = int(options.surge)
    spec["strategy"]["rollingUpdate"] = {"maxSurge": surge, "maxUnavailable": 1 - surge}
    manifests.remark(DEPLOYMENT, _SURGE if surge else _ONE_BY_ONE)
    if options.autoscale is None:
        spec["replicas"] = options.replicas
    else:
        del spec["replicas"]
        manifests.remark(DEPLOYMENT, _AUTOSCALED)
