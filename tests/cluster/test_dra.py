"""The scheduler gives the pods of `--dra` the GPUs that they are for, from what a driver offers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy import k8s
from nemotron_deploy.k8s.options import ClusterOptions
from nemotron_deploy.k8s.release import Release
from nemotron_deploy.model import catalog
from nemotron_deploy.model.spec import Deployment
from nemotron_deploy.tests.cluster.conftest import gpu_node
from nemotron_deploy.tests.cluster.kubectl import Kubectl

pytestmark = pytest.mark.cluster

DRIVER = "gpu.nvidia.com"
NODES = {
    "dra-a100-40": [("gpu", "NVIDIA A100-SXM4-40GB")],
    "dra-h100": [("gpu", "NVIDIA H100 80GB HBM3"), ("gpu", "NVIDIA H100 80GB HBM3")],
    "dra-h100-mig": [("mig", "NVIDIA H100 80GB HBM3")],
    "dra-l4": [("gpu", "NVIDIA L4")],
}
"""Nodes and their devices as NVIDIA's driver names them: type and product."""


def device_class(kind: str) -> dict[str, Any]:
    """The class of whole GPUs, or of MIG slices, as the driver's Helm chart makes it."""
    expression = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == '{kind}'"
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": f"{kind}.nvidia.com"},
        "spec": {"selectors": [{"cel": {"expression": expression}}]},
    }


def resource_slice(node: str, devices: list[tuple[str, str]]) -> dict[str, Any]:
    """What the driver on a node publishes."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{node}-{DRIVER}"},
        "spec": {
            "driver": DRIVER,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [
                {
                    "name": f"{kind}-{number}",
                    "attributes": {"type": {"string": kind}, "productName": {"string": product}},
                    "capacity": {"memory": {"value": "80Gi"}},
                }
                for number, (kind, product) in enumerate(devices)
            ],
        },
    }


@pytest.fixture
def nodes(kubectl: Kubectl) -> Iterator[None]:
    """Nodes whose GPUs are known to the driver only, and none that has them as a resource."""
    others = [node["metadata"]["name"] for node in kubectl.items("nodes")]
    kubectl("cordon", *others)
    size = {"product": "", "memory": 0, "gpus": 0, "cpu": 64, "ram": "1Ti"}
    made = [gpu_node({**size, "name": name}) for name in NODES]
    for node in made:
        labels = node["metadata"]["labels"]
        for key in [key for key in labels if key.startswith("nvidia.com/")]:
            del labels[key]
        del node["status"]["capacity"]["nvidia.com/gpu"]
    slices = [resource_slice(*row) for row in NODES.items()]
    kubectl.apply(*made, device_class("gpu"), device_class("mig"), *slices)
    names = [f"node/{name}" for name in NODES]
    kubectl("wait", *names, "--for=condition=Ready", "--timeout=60s")
    yield
    kubectl("delete", *(f"resourceslice/{name}-{DRIVER}" for name in NODES))
    kubectl("delete", "deviceclass/gpu.nvidia.com", "deviceclass/mig.nvidia.com", *names)
    kubectl("uncordon", *others)


@pytest.mark.usefixtures("nodes")
def test_claims_get_whole_gpus_of_the_right_product(
    kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    """Two whole H100s are free; the third pod gets neither the MIG slice nor another product."""
    deployment = Deployment(
        name="model", model_name="model", image="nvcr.io/nvidia/tritonserver:26.07-py3",
        gpu=catalog.gpu("h100"), gpus=1, quant="int4", bundle_bytes=1_000_000_000,
        executor="trtllm", max_batch_size=64,
    )  # fmt: skip
    options = ClusterOptions(weights="image", replicas=3, dra=True)
    k8s.emit(tmp_path, Release(deployment, "0123456789abcdef" * 4, (), 0, options))
    scope = f"--namespace={namespace}"
    kubectl("apply", "-k", tmp_path, scope)

    def allocated() -> list[tuple[str, str]]:
        statuses = [claim.get("status", {}) for claim in kubectl.items("resourceclaims", scope)]
        devices = [status.get("allocation", {}).get("devices", {}) for status in statuses]
        results = [result for each in devices for result in each.get("results", ())]
        return sorted((result["pool"], result["device"]) for result in results)

    def refusals() -> list[str]:
        conditions = [
            condition
            for pod in kubectl.items("pods", scope)
            for condition in pod["status"].get("conditions", [])
        ]
        return [row["message"] for row in conditions if row.get("reason") == "Unschedulable"]

    kubectl.until("two claims", lambda: len(allocated()) == 2 and refusals())
    assert allocated() == [("dra-h100", "gpu-0"), ("dra-h100", "gpu-1")]
    [refusal] = refusals()
    assert "cannot allocate all claims" in refusal
    kubectl("delete", "-k", tmp_path, scope)
