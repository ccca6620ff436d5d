"""Where the scheduler would place a bundle, by the labels of nodes as clusters have them."""

from __future__ import annotations

from typing import Any

import pytest

from nemotron_deploy.k8s import gpu_labels
from nemotron_deploy.model import catalog
from nemotron_deploy.model.spec import Gpu

GFD = gpu_labels.PRODUCT
SHARING = gpu_labels.SHARING
GKE = gpu_labels.GKE
TYPE = gpu_labels.INSTANCE_TYPE

NODES: dict[str, tuple[dict[str, str], str | None]] = {
    "H100 SXM": ({GFD: "NVIDIA-H100-80GB-HBM3", SHARING: "none"}, "h100"),
    "H100 PCIe": ({GFD: "NVIDIA-H100-PCIe"}, "h100"),
    "H100 NVL": ({GFD: "NVIDIA-H100-NVL"}, "h100-nvl"),
    "H200": ({GFD: "NVIDIA-H200"}, "h200"),
    "H200 NVL": ({GFD: "NVIDIA-H200-NVL"}, None),
    "H800": ({GFD: "NVIDIA-H800"}, None),
    "A100 SXM 80 GB": ({GFD: "NVIDIA-A100-SXM4-80GB"}, "a100"),
    "A100 PCIe 80 GB": ({GFD: "NVIDIA-A100-80GB-PCIe"}, "a100"),
    "A100 40 GB": ({GFD: "NVIDIA-A100-SXM4-40GB"}, "a100-40gb"),
    "A100 of an old driver": ({GFD: "A100-SXM4-80GB"}, "a100"),
    "mixed MIG, whole GPUs left": (
        {GFD: "NVIDIA-H100-80GB-HBM3", "nvidia.com/mig.strategy": "mixed"},
        "h100",
    ),
    "MIG slices": ({GFD: "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"}, None),
    "MIG slices on AKS": (
        {GFD: "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", TYPE: "Standard_ND96isr_H100_v5"},
        None,
    ),
    "MIG layout invalid": ({GFD: "NVIDIA-H100-80GB-HBM3-MIG-INVALID"}, None),
    "time-sliced": (
        {GFD: "NVIDIA-H100-80GB-HBM3-SHARED", SHARING: "time-slicing"},
        None,
    ),
    "time-sliced, old feature discovery": (
        {GFD: "NVIDIA-H100-80GB-HBM3", SHARING: "time-slicing"},
        None,
    ),
    "shared by MPS on EKS": ({SHARING: "mps", TYPE: "p5.48xlarge"}, None),
    "GKE H100": ({GKE: "nvidia-h100-80gb", TYPE: "a3-highgpu-8g"}, "h100"),
    "GKE H100 mega": ({GKE: "nvidia-h100-mega-80gb"}, "h100"),
    "GKE H200": ({GKE: "nvidia-h200-141gb"}, "h200"),
    "GKE A100 80 GB": ({GKE: "nvidia-a100-80gb"}, "a100"),
    "GKE A100 40 GB": ({GKE: "nvidia-tesla-a100"}, "a100-40gb"),
    "GKE partition": (
        {GKE: "nvidia-a100-80gb", gpu_labels.GKE_PARTITION: "1g.10gb"},
        None,
    ),
    "GKE time-sharing": ({GKE: "nvidia-l4", gpu_labels.GKE_SHARING: "time-sharing"}, None),
    "GKE time-sharing with feature discovery": (
        {GKE: "nvidia-l4", GFD: "NVIDIA-L4", gpu_labels.GKE_SHARING: "time-sharing"},
        None,
    ),
    "GKE with feature discovery": ({GKE: "nvidia-l4", GFD: "NVIDIA-L4"}, "l4"),
    "EKS H100": ({TYPE: "p5.48xlarge"}, "h100"),
    "EKS A100 80 GB": ({TYPE: "p4de.24xlarge"}, "a100"),
    "EKS A10G": ({TYPE: "g5.12xlarge"}, "a10"),
    "EKS fraction of an L4": ({TYPE: "g6f.large"}, None),
    "Karpenter H100": ({gpu_labels.KARPENTER: "h100"}, "h100"),
    "Karpenter A100 80 GB": (
        {gpu_labels.KARPENTER: "a100", gpu_labels.KARPENTER_MIB: "81920"},
        "a100",
    ),
    "Karpenter A100 40 GB": (
        {gpu_labels.KARPENTER: "a100", gpu_labels.KARPENTER_MIB: "40960"},
        "a100-40gb",
    ),
    "Karpenter fraction of an L4": (
        {gpu_labels.KARPENTER: "l4", gpu_labels.KARPENTER_MIB: "2861"},
        None,
    ),
    "EKS Auto Mode H200": ({gpu_labels.EKS_AUTO: "h200"}, "h200"),
    "AKS H100": (
        {TYPE: "Standard_ND96isr_H100_v5", "kubernetes.azure.com/accelerator": "nvidia"},
        "h100",
    ),
    "AKS H100 NVL": ({TYPE: "Standard_NC40ads_H100_v5"}, "h100-nvl"),
    "AKS A100 PCIe": ({TYPE: "Standard_NC24ads_A100_v4"}, "a100"),
    "AKS fraction of an A10": ({TYPE: "Standard_NV6ads_A10_v5"}, None),
    "no GPU": ({TYPE: "Standard_D4s_v5"}, None),
    "no label": ({}, None),
}
"""Labels of a node, and the key of the GPU whose bundles it may run."""


def admits(gpu: Gpu, labels: dict[str, str]) -> bool:
    """Whether one of the terms holds for a node, as the scheduler decides it."""
    return any(
        all(_holds(expression, labels) for expression in term["matchExpressions"])
        for term in gpu_labels.node_terms(gpu)
    )


def _holds(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "DoesNotExist":
            return value is None
    raise AssertionError(expression)


@pytest.mark.parametrize("node", NODES)
def test_a_node_runs_the_bundles_of_its_gpu_only(node: str) -> None:
    labels, expected = NODES[node]
    admitted = [key for key, gpu in catalog.gpus().items() if admits(gpu, labels)]
    assert admitted == ([expected] if expected else [])


@pytest.mark.parametrize("key", catalog.gpus())
def test_every_gpu_names_its_products_first(key: str) -> None:
    gpu = catalog.gpu(key)
    first = gpu_labels.node_terms(gpu)[0]["matchExpressions"][0]
    assert first["key"] == GFD
    assert set(gpu.product_labels) <= set(first["values"])


def test_a_variant_is_placed_on_its_own_cards() -> None:
    pcie, sxm = catalog.gpu("A100 PCIe"), {TYPE: "p4de.24xlarge"}
    assert admits(pcie, {TYPE: "Standard_NC24ads_A100_v4"})
    assert not admits(pcie, sxm)
    assert admits(catalog.gpu("a100"), sxm)


def test_clouds_name_products_of_the_catalogue() -> None:
    labels = {label for gpu in catalog.gpus().values() for label in gpu.product_labels}
    assert gpu_labels.CLOUDS.keys() <= labels
    assert not gpu_labels.OTHER_GPUS & labels


def test_vocabularies_tell_which_gpus_a_label_can_mean() -> None:
    known = gpu_labels.vocabularies()
    assert known[GKE]["nvidia-tesla-a100"] == {"a100-40gb"}
    assert known[gpu_labels.KARPENTER]["a100"] == {"a100", "a100-40gb"}
    assert known[GFD]["NVIDIA-H100-PCIe"] == {"h100"}
    assert "NVIDIA-H800" not in known[GFD]


def test_machines_have_one_kind_of_gpu() -> None:
    known = gpu_labels.vocabularies()
    ambiguous = {value for value, gpus in known[TYPE].items() if len(gpus) > 1}
    assert not ambiguous
