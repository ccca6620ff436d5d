"""Autoscaling by KEDA on the served model's own metrics."""

from __future__ import annotations

from typing import Any, Final

from ...runtime.contract import TIME_TO_FIRST_TOKEN, WAITING
from ..manifests import Manifests
from ..objects.metadata import new
from ..yaml_text import Object

WAITING_PER_POD: Final = 4
"""Requests that may wait for each pod before another one is started."""

FIRST_TOKEN_S: Final = 5
"""Time to the first token, at the 90th percentile, above which another pod is started."""

_COMMENT: Final = """\
Another pod is started for every {waiting} waiting requests, or when nine of ten requests do not get
their first token within {first} s. Pods are removed one at a time, and only after the load has been
lower for as long as a start takes."""

_KEDA: Final = """
KEDA sets the number of pods; it asks Prometheus at {prometheus}."""

_HPA: Final = """
A metrics adapter must offer {metric} of pods under custom.metrics.k8s.io. The time to the first
token is not used here: adapters offer no quantiles without rules of their own."""


def autoscaling(manifests: Manifests) -> None:
    """A ScaledObject or a HorizontalPodAutoscaler, if `--autoscale` asks for one."""
    options = manifests.release.options
    if options.autoscale is not None:
        {"keda": _scaled_object, "hpa": _pod_autoscaler}[options.autoscaler](manifests)


def _scaled_object(manifests: Manifests) -> None:
    options, name = manifests.release.options, manifests.release.name
    least, most = options.bounds
    spec: dict[str, Any] = {
        "scaleTargetRef": {"name": name},
        "minReplicaCount": least,
        "maxReplicaCount": most,
        "pollingInterval": 5,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(manifests)}},
        "triggers": [
            _trigger(
                options.prometheus, "waiting", _waiting(name), WAITING_PER_POD, "AverageValue"
            ),
            _trigger(options.prometheus, "first-token", _first_token(name), FIRST_TOKEN_S, "Value"),
        ],
    }
    comment = (_COMMENT + _KEDA).format(
        waiting=WAITING_PER_POD, first=FIRST_TOKEN_S, prometheus=options.prometheus
    )
    document = new("keda.sh/v1alpha1", "ScaledObject", name, spec=spec)
    manifests.add("scaledobject.yaml", document, comment)


def _pod_autoscaler(manifests: Manifests) -> None:
    name, (least, most) = manifests.release.name, manifests.release.options.bounds
    target = {"type": "AverageValue", "averageValue": str(WAITING_PER_POD)}
    spec: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": least,
        "maxReplicas": most,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": WAITING.name}, "target": target}}],
        "behavior": _behavior(manifests),
    }
    comment = _PODS_COMMENT.format(waiting=WAITING_PER_POD) + _HPA.format(metric=WAITING.name)
    document = new("autoscaling/v2", "HorizontalPodAutoscaler", name, spec=spec)
    manifests.add("horizontalpodautoscaler.yaml", document, comment)


_PODS_COMMENT: Final = """\
Another pod is started for every {waiting} waiting requests. Pods are removed one at a time, and
only after the load has been lower for as long as a start takes."""


def _behavior(manifests: Manifests) -> Object:
    """How fast the number of pods follows the load: up at once, down after a start's time."""
    return {
        "scaleUp": {"stabilizationWindowSeconds": 0},
        "scaleDown": {
            # The API allows an hour at most.
            "stabilizationWindowSeconds": min(manifests.sizes.startup_s, 3600),
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }


def _trigger(prometheus: str, name: str, query: str, threshold: float, kind: str) -> dict[str, Any]:
    metadata = {"serverAddress": prometheus, "query": query, "threshold": f"{threshold:g}"}
    return {"type": "prometheus", "name": name, "metricType": kind, "metadata": metadata}


def _waiting(name: str) -> str:
    """A query for the waiting requests of all pods of a Deployment; 0 where no pod reports any."""
    return f"sum({WAITING.name}{{{_pods(name)}}}) or vector(0)"


def _first_token(name: str) -> str:
    """A query for the time to the first token, at the 90th percentile of a minute, in seconds; 0
    where no request came (the quantile is then no number, which is not more than 0)."""
    buckets = f"rate({TIME_TO_FIRST_TOKEN.name}_bucket{{{_pods(name)}}}[1m])"
    return f"histogram_quantile(0.9, sum by (le) ({buckets})) > 0 or vector(0)"


def _pods(name: str) -> str:
    """A selector of the Deployment's pods: Prometheus labels what it scrapes with the pod."""
    return f'pod=~"{name}-[a-z0-9]+-[a-z0-9]+"'
