"""The Deployment of the serving pods."""

from __future__ import annotations

from typing import Any

from ...runtime.contract import METRICS_PORT
from ..manifests import DEPLOYMENT, Manifests
from ..names import BUNDLE_BYTES, BUNDLE_DIGEST, labels, selector
from ..release import Release
from .metadata import new
from .pod import pod_spec

_COMMENT = """\
The pod template names the bundle by its digest: applying another bundle is a rollout, and
kubectl rollout undo goes back to the bundle before it.
The startup probe allows 30 minutes for kernel tuning, compilation and CUDA graph capture, plus
the time to read the bundle at 100 MB/s. The memory limit covers the bundle once, 16 GiB per GPU,
and /dev/shm. Connections are renewed more often (--grpc-max-connection-age, --connection-age) than
the preStop hook sleeps, so no client stays connected to a draining pod. Do not set a grace period
for gRPC's: it would cut long streams. Requires Kubernetes 1.30 or later (preStop sleep).
The Secret that the volume api-keys names may hold API keys of the OpenAI endpoint: one on each line
of its entry keys. While there is none, no key is needed. Pods need no restart when it is made or
changed."""


def deployment(manifests: Manifests) -> None:
    """The Deployment, without the bundle's volume and without GPUs: features add these."""
    release, sizes = manifests.release, manifests.sizes
    document = new("apps/v1", "Deployment", release.name)
    document["metadata"]["annotations"] = {BUNDLE_BYTES: str(release.deployment.bundle_bytes)}
    match = {"matchLabels": selector(release.name)}
    pod = pod_spec(release.deployment, sizes)
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
        "strategy": {"type": "RollingUpdate"},
        "selector": match,
        "template": {"metadata": _template_metadata(release), "spec": pod},
    }
    manifests.add(DEPLOYMENT, document, _COMMENT)


def _template_metadata(release: Release) -> dict[str, Any]:
    served = release.deployment
    about = {"model": served.model_name, "gpu": served.gpu.key, "quant": served.quant}
    scrape = {"scrape": "true", "port": str(METRICS_PORT.number), "path": "/metrics"}
    return {
        "labels": labels(release.name),
        "annotations": {
            BUNDLE_DIGEST: release.digest,
            **{f"nemo-deploy/{key}": value for key, value in about.items()},
            **{f"prometheus.io/{key}": value for key, value in scrape.items()},
        },
    }
