"""GPUs by dynamic resource allocation, in place of the device plugin's resource."""

from __future__ import annotations

from typing import Final

from ..manifests import DEPLOYMENT, Manifests
from ..names import GPU
from ..objects.metadata import new

DEVICE_CLASS: Final = "gpu.nvidia.com"

_COMMENT: Final = """\
The GPUs of one pod, for clusters with NVIDIA's DRA driver (Kubernetes 1.34 or later). The driver
says which GPU a device is, so no label of a node is needed."""

_REMARK: Final = """\
GPUs are claimed by the ResourceClaimTemplate, so there is no request of nvidia.com/gpu."""


def resource_claims(manifests: Manifests) -> None:
    """A ResourceClaimTemplate in place of GPU requests and node affinity, if `--dra` asks so."""
    release = manifests.release
    if not release.options.dra:
        return
    served = release.deployment
    products = [label.replace("-", " ") for label in served.gpu.product_labels]
    chosen = ", ".join(f"'{product}'" for product in products)
    expression = f"device.attributes['{DEVICE_CLASS}'].productName.replace('-', ' ') in [{chosen}]"
    exactly = {
        "deviceClassName": DEVICE_CLASS,
        "count": served.gpus,
        "selectors": [{"cel": {"expression": expression}}],
    }
    spec = {"spec": {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}}}
    template = new("resource.k8s.io/v1", "ResourceClaimTemplate", release.name, spec=spec)
    manifests.add("resourceclaimtemplate.yaml", template, _COMMENT)
    del manifests.pod["affinity"]
    resources = manifests.triton["resources"]
    for kind in ("requests", "limits"):
        del resources[kind][GPU]
    resources["claims"] = [{"name": "gpus"}]
    manifests.pod["resourceClaims"] = [{"name": "gpus", "resourceClaimTemplateName": release.name}]
    manifests.remark(DEPLOYMENT, _REMARK)
