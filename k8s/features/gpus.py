"""Serving pods get GPUs of the kind that the bundle was built for, and no others."""

from __future__ import annotations

from typing import Any

from ...core.errors import UsageError
from ..gpu_labels import CLOUDS, GKE, TOLERATIONS, node_terms
from ..manifests import DEPLOYMENT, Manifests
from ..names import GPU

_PLACED = """\
The node affinity has one term for each way in which clusters label GPUs: GPU feature discovery,
GKE, Karpenter on EKS, and machine types on EKS and AKS. No term takes slices (MIG) or shared
GPUs."""

_AUTOPILOT = "On GKE Autopilot, the node selector makes a node with this GPU."


def gpus(manifests: Manifests) -> None:
    """Requests, placement and tolerations."""
    served, options = manifests.release.deployment, manifests.release.options
    for kind in ("requests", "limits"):
        manifests.triton["resources"][kind][GPU] = str(served.gpus)
    manifests.pod["tolerations"] = [dict(toleration) for toleration in TOLERATIONS]
    if options.platform == "gke-autopilot":
        clouds = [CLOUDS[label] for label in served.gpu.product_labels if label in CLOUDS]
        names = [name for cloud in clouds for name in cloud.gke]
        if not names:
            raise UsageError(f"--platform gke-autopilot: GKE has no {served.gpu.name}")
        manifests.pod["nodeSelector"] = {GKE: names[0]}
        manifests.remark(DEPLOYMENT, _AUTOPILOT)
        return
    required: dict[str, Any] = {"nodeSelectorTerms": node_terms(served.gpu)}
    manifests.pod["affinity"] = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}
    }
    manifests.remark(DEPLOYMENT, _PLACED)
