"""The objects of the base, which every overlay contains. None sets a namespace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..model.spec import Deployment
from ..runtime.contract import GRPC, HTTP, METRICS_PORT, OPENAI
from .pod import pod_spec
from .sizing import Sizes
from .yaml_text import Object

INSTANCE: Final = "app.kubernetes.io/instance"
"""The label that selects the pods of one overlay and no others."""

BUNDLE_BYTES: Final = "nemo-deploy/bundle-bytes"
"""The annotation from which `check` computes how long a start may take."""


def labels(deployment: Deployment) -> dict[str, str]:
    """Labels of every object."""
    return {**selector(deployment.name), "app.kubernetes.io/managed-by": "nemo-deploy"}


def selector(instance: str) -> dict[str, str]:
    """Labels that select the pods of one instance."""
    return {"app.kubernetes.io/name": "tritonserver", INSTANCE: instance}


def base(deployment: Deployment, sizes: Sizes) -> dict[str, Object]:
    """The objects, by the name of their file."""
    return {
        "serviceaccount.yaml": _object(
            deployment, "v1", "ServiceAccount", automountServiceAccountToken=False
        ),
        "service.yaml": _service(deployment),
        "deployment.yaml": _deployment(deployment, sizes),
        "poddisruptionbudget.yaml": _disruption_budget(deployment),
        "networkpolicy.yaml": _network_policy(deployment),
    }


COMMENTS: Final[Mapping[str, str]] = {
    "serviceaccount.yaml": (
        "A dedicated service account without a token: Triton never calls the Kubernetes API."
    ),
    "service.yaml": (
        "Inference only: Triton, and OpenAI's API on the port openai. Triton asks for no key, and\n"
        "OpenAI's API asks for one only if the Secret with API keys exists. To expose them\n"
        "outside the cluster, put a gateway with TLS and authentication in front of them.\n"
        "Prometheus scrapes the pods directly."
    ),
    "deployment.yaml": (
        "The overlays define where the bundle comes from. maxSurge is 0 because a rollout usually\n"
        "has no spare GPU. The startup probe allows 30 minutes for kernel tuning, compilation and\n"
        "CUDA graph capture, plus the time to read the bundle at 100 MB/s. The memory limit\n"
        "covers the bundle once, 16 GiB per GPU, and /dev/shm. gRPC connections are renewed more\n"
        "often (--grpc-max-connection-age) than the preStop hook sleeps, so no client stays\n"
        "connected to a draining pod. Do not set a grace period for that flag: it would cut long\n"
        "streams. Requires Kubernetes 1.30 or later (preStop sleep).\n"
        "The Secret that the volume api-keys names may hold API keys of the OpenAI endpoint: one\n"
        "on each line of its entry keys. While there is none, no key is needed. Pods need no\n"
        "restart when it is made or changed."
    ),
    "poddisruptionbudget.yaml": (
        "Allows one eviction at a time. With minAvailable, a single replica would block every\n"
        "node drain. A pod that is not ready never blocks a drain."
    ),
    "networkpolicy.yaml": (
        "Ingress: inference from pods in the same namespace (add a namespaceSelector for a\n"
        "gateway in another one), metrics from every namespace. Egress: none; everything the\n"
        "server needs is in the bundle."
    ),
}
"""The comment at the top of each object's file."""


def _object(deployment: Deployment, api: str, kind: str, **rest: Any) -> Object:
    metadata = {"name": deployment.name, "labels": labels(deployment)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}


def _service(deployment: Deployment) -> Object:
    ports = [
        {"name": p.name, "port": p.number, "targetPort": p.name, "appProtocol": protocol}
        for p, protocol in ((GRPC, "kubernetes.io/h2c"), (HTTP, "http"), (OPENAI, "http"))
    ]
    spec = {"type": "ClusterIP", "selector": selector(deployment.name), "ports": ports}
    return _object(deployment, "v1", "Service", spec=spec)


def _deployment(deployment: Deployment, sizes: Sizes) -> Object:
    document = _object(deployment, "apps/v1", "Deployment")
    document["metadata"]["annotations"] = {BUNDLE_BYTES: str(deployment.bundle_bytes)}
    match = {"matchLabels": selector(deployment.name)}
    pod = pod_spec(deployment, sizes)
    pod["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": match,
        }
    ]
    document["spec"] = {
        "replicas": 1,
        "progressDeadlineSeconds": sizes.progress_deadline_s,
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
        },
        "selector": match,
        "template": {"metadata": _template_metadata(deployment), "spec": pod},
    }
    return document


def _template_metadata(deployment: Deployment) -> dict[str, Any]:
    served = {"model": deployment.model_name, "gpu": deployment.gpu.key, "quant": deployment.quant}
    scrape = {"scrape": "true", "port": str(METRICS_PORT.number), "path": "/metrics"}
    return {
        "labels": labels(deployment),
        "annotations": {
            **{f"nemo-deploy/{key}": value for key, value in served.items()},
            **{f"prometheus.io/{key}": value for key, value in scrape.items()},
        },
    }


def _disruption_budget(deployment: Deployment) -> Object:
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": selector(deployment.name)},
    }
    return _object(deployment, "policy/v1", "PodDisruptionBudget", spec=spec)


def _network_policy(deployment: Deployment) -> Object:
    def ports(*names: str) -> list[dict[str, Any]]:
        return [{"protocol": "TCP", "port": name} for name in names]

    spec = {
        "podSelector": {"matchLabels": selector(deployment.name)},
        # Egress without a rule allows none. Not `egress: []`: the API server drops an empty list,
        # and `kubectl diff` would find a difference for ever.
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"podSelector": {}}], "ports": ports(GRPC.name, HTTP.name, OPENAI.name)},
            {"from": [{"namespaceSelector": {}}], "ports": ports(METRICS_PORT.name)},
        ],
    }
    return _object(deployment, "networking.k8s.io/v1", "NetworkPolicy", spec=spec)
