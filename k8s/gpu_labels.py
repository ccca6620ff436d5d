"""How nodes say which GPU they have: one vocabulary for each label key that clusters use.

GPU feature discovery labels nodes with the GPU's product name. Clusters without it have labels of
their cloud. A pod that requires one GPU names it in every vocabulary, as alternative terms of its
node affinity, so that the same manifest is placed on each of these clusters.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..model import catalog
from ..model.spec import Gpu

PRODUCT: Final = "nvidia.com/gpu.product"
"""GPU feature discovery, which also comes with NVIDIA's GPU operator."""

GKE: Final = "cloud.google.com/gke-accelerator"
KARPENTER: Final = "karpenter.k8s.aws/instance-gpu-name"
KARPENTER_MIB: Final = "karpenter.k8s.aws/instance-gpu-memory"
EKS_AUTO: Final = "eks.amazonaws.com/instance-gpu-name"
EKS_AUTO_MIB: Final = "eks.amazonaws.com/instance-gpu-memory"
INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"
"""Every cloud sets it; the vocabulary has the machines of EKS and AKS."""

SHARING: Final = "nvidia.com/gpu.sharing-strategy"
GKE_SHARING: Final = "cloud.google.com/gke-gpu-sharing-strategy"
GKE_PARTITION: Final = "cloud.google.com/gke-gpu-partition-size"

NAMING: Final = frozenset(
    (PRODUCT, GKE, KARPENTER, KARPENTER_MIB, EKS_AUTO, EKS_AUTO_MIB, INSTANCE_TYPE)
)
"""Every label that says which GPU a node has."""

SLICED: Final = ("-MIG-", "-SHARED")
"""In the product name of a GPU that is divided into MIG slices, or shared by several pods."""

Expression = dict[str, Any]
Term = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cloud:
    """What clouds call one product.

    Attributes:
        gke: Values of GKE's accelerator label.
        aws: The GPU's name on nodes that Karpenter or EKS Auto Mode makes.
        aws_mib: Its memory on the same nodes, in MiB, where other GPUs have the same name.
        instance_types: Machines of EKS and AKS that have this GPU, and only whole ones.
    """

    gke: tuple[str, ...] = ()
    aws: str | None = None
    aws_mib: int | None = None
    instance_types: tuple[str, ...] = ()


def _sizes(family: str, sizes: str) -> tuple[str, ...]:
    return tuple(f"{family}.{size}" for size in sizes.split())


_G_SIZES: Final = "xlarge 2xlarge 4xlarge 8xlarge 12xlarge 16xlarge 24xlarge 48xlarge"

CLOUDS: Final[Mapping[str, Cloud]] = {
    "NVIDIA-H100-80GB-HBM3": Cloud(
        gke=("nvidia-h100-80gb", "nvidia-h100-mega-80gb"),
        aws="h100",
        instance_types=(
            *_sizes("p5", "4xlarge 48xlarge"),
            "Standard_ND96is_H100_v5",
            "Standard_ND96isr_H100_v5",
            "Standard_ND96isrf_H100_v5",
        ),
    ),
    "NVIDIA-H100-NVL": Cloud(
        instance_types=("Standard_NC40ads_H100_v5", "Standard_NC80adis_H100_v5")
    ),
    "NVIDIA-H200": Cloud(
        gke=("nvidia-h200-141gb",),
        aws="h200",
        instance_types=(
            "p5e.48xlarge",
            "p5en.48xlarge",
            "Standard_ND96is_H200_v5",
            "Standard_ND96isr_H200_v5",
            "Standard_ND96isrf_H200_v5",
        ),
    ),
    "NVIDIA-B200": Cloud(gke=("nvidia-b200",), aws="b200", instance_types=("p6-b200.48xlarge",)),
    "NVIDIA-A100-SXM4-80GB": Cloud(
        gke=("nvidia-a100-80gb",),
        aws="a100",
        aws_mib=81920,
        instance_types=(
            "p4de.24xlarge",
            "Standard_ND96ams_A100_v4",
            "Standard_ND96amsr_A100_v4",
        ),
    ),
    "NVIDIA-A100-80GB-PCIe": Cloud(
        instance_types=(
            "Standard_NC24ads_A100_v4",
            "Standard_NC48ads_A100_v4",
            "Standard_NC96ads_A100_v4",
        )
    ),
    "NVIDIA-A100-SXM4-40GB": Cloud(
        gke=("nvidia-tesla-a100",),
        aws="a100",
        aws_mib=40960,
        instance_types=("p4d.24xlarge", "Standard_ND96asr_v4"),
    ),
    "NVIDIA-L40S": Cloud(aws="l40s", instance_types=_sizes("g6e", _G_SIZES)),
    # The machines g6f and gr6f have fractions of an L4, under the same name with less memory.
    "NVIDIA-L4": Cloud(
        gke=("nvidia-l4",),
        aws="l4",
        aws_mib=22888,
        instance_types=(*_sizes("g6", _G_SIZES), *_sizes("gr6", "4xlarge 8xlarge")),
    ),
    "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition": Cloud(
        gke=("nvidia-rtx-pro-6000",),
        aws="rtx-pro-server-6000",
        instance_types=_sizes("g7e", "2xlarge 4xlarge 8xlarge 12xlarge 24xlarge 48xlarge"),
    ),
    # Smaller machines of this series have fractions of an A10.
    "NVIDIA-A10": Cloud(
        instance_types=(
            "Standard_NV36ads_A10_v5",
            "Standard_NV36adms_A10_v5",
            "Standard_NV72ads_A10_v5",
        )
    ),
    "NVIDIA-A10G": Cloud(aws="a10g", instance_types=_sizes("g5", _G_SIZES)),
}
"""What clouds call a GPU, by its product label. Names of Karpenter are those of its own reference,
those of GKE and AKS are their documentation's."""

OTHER_GPUS: Final = frozenset(
    {
        "NVIDIA-A2",
        "NVIDIA-A16",
        "NVIDIA-A30",
        "NVIDIA-A40",
        "NVIDIA-A800-SXM4-80GB",
        "NVIDIA-A800-80GB-PCIe",
        "NVIDIA-B300",
        "NVIDIA-B300-SXM6-AC",
        "NVIDIA-GB200",
        "NVIDIA-GB300",
        "NVIDIA-GH200-144G-HBM3e",
        "NVIDIA-H20",
        "NVIDIA-H200-NVL",
        "NVIDIA-H800",
        "NVIDIA-H800-PCIe",
        "NVIDIA-L2",
        "NVIDIA-L20",
        "NVIDIA-RTX-A4000",
        "NVIDIA-RTX-A5000",
        "NVIDIA-RTX-A6000",
        "Quadro-RTX-6000",
        "Tesla-P4",
        "Tesla-P40",
        "Tesla-P100-PCIE-16GB",
        "Tesla-T4",
        "Tesla-V100-SXM2-16GB",
        "Tesla-V100-SXM2-32GB",
        "Tesla-V100-PCIE-16GB",
        "Tesla-V100-PCIE-32GB",
        "nvidia-b300",
        "nvidia-gb200",
        "nvidia-gb300",
        "nvidia-tesla-k80",
        "nvidia-tesla-p100",
        "nvidia-tesla-p4",
        "nvidia-tesla-t4",
        "nvidia-tesla-v100",
        "b300",
        "rtx-pro-4500",
        "t4",
        "t4g",
        "v100",
    }
)
"""What labels say of GPUs that the catalogue does not have: they are no misspellings."""

TOLERATIONS: Final = (
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"},
)
"""Of the taints that GPU nodes usually have: that of NVIDIA and GKE, and that of AKS."""


def node_terms(gpu: Gpu) -> list[Term]:
    """The `nodeSelectorTerms` that admit nodes with whole GPUs of that kind, and no others.

    Terms are alternatives: the first is for clusters with GPU feature discovery, the others are for
    clusters without it. A variant (`H100 PCIe`) admits its own products only.
    """
    return [
        {"matchExpressions": [*expressions, *_whole(expressions[0]["key"])]}
        for expressions in _alternatives(gpu)
    ]


def _alternatives(gpu: Gpu) -> Iterator[list[Expression]]:
    """What names the GPU, in each vocabulary that has a name for it."""
    yield [_is_in(PRODUCT, *product_names(gpu))]
    clouds = [CLOUDS[label] for label in gpu.product_labels if label in CLOUDS]
    accelerators = [value for cloud in clouds for value in cloud.gke]
    if accelerators:
        yield [_is_in(GKE, *accelerators)]
    for name_key, memory_key in ((KARPENTER, KARPENTER_MIB), (EKS_AUTO, EKS_AUTO_MIB)):
        for cloud in clouds:
            if cloud.aws is not None:
                memory = [_is_in(memory_key, str(cloud.aws_mib))] if cloud.aws_mib else []
                yield [_is_in(name_key, cloud.aws), *memory]
    types = [value for cloud in clouds for value in cloud.instance_types]
    if types:
        yield [_is_in(INSTANCE_TYPE, *types)]


def _whole(named_by: str) -> Iterator[Expression]:
    """What excludes divided and shared GPUs from a term whose first key is `named_by`.

    A product label names the slice, so that the other terms leave every node that has one to the
    first term. NotIn also admits nodes without the label.
    """
    if named_by != PRODUCT:
        yield {"key": PRODUCT, "operator": "DoesNotExist"}
    yield {"key": SHARING, "operator": "NotIn", "values": ["time-slicing", "mps"]}
    if named_by in (PRODUCT, GKE):
        yield {"key": GKE_SHARING, "operator": "NotIn", "values": ["time-sharing", "mps"]}
        yield {"key": GKE_PARTITION, "operator": "DoesNotExist"}


def labels_of(gpu: Gpu) -> Iterator[dict[str, str]]:
    """What nodes with that GPU are labelled with: the labels of one vocabulary at a time."""
    for name, *others in _alternatives(gpu):
        rest = {expression["key"]: expression["values"][0] for expression in others}
        yield from ({name["key"]: value, **rest} for value in name["values"])


def divided(keys: Collection[str]) -> Iterator[tuple[str, str]]:
    """Labels that nodes with divided or shared GPUs can have beside those with `keys`."""
    yield from ((SHARING, "time-slicing"), (SHARING, "mps"))
    if PRODUCT not in keys:
        yield PRODUCT, "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"
    if PRODUCT in keys or GKE in keys:
        yield from ((GKE_SHARING, "time-sharing"), (GKE_SHARING, "mps"))
        yield GKE_PARTITION, "1g.10gb"


def _is_in(key: str, *values: str) -> Expression:
    return {"key": key, "operator": "In", "values": [*values]}


def product_names(gpu: Gpu) -> tuple[str, ...]:
    """Its product labels, and those of the Ampere generation as older drivers spell them, without
    the maker's name."""
    bare = [label.removeprefix("NVIDIA-") for label in gpu.product_labels if gpu.sm == _AMPERE]
    return (*gpu.product_labels, *bare)


_AMPERE: Final = 80


@functools.cache
def vocabularies() -> Mapping[str, Mapping[str, frozenset[str]]]:
    """For each label key that names a GPU: the known values, and the keys (in the catalogue) of the
    GPUs that a node with this value can have."""
    known: dict[str, dict[str, frozenset[str]]] = {}
    for gpu in catalog.gpus().values():
        for expressions in _alternatives(gpu):
            values = known.setdefault(expressions[0]["key"], {})
            for value in expressions[0]["values"]:
                values[value] = values.get(value, frozenset()) | {gpu.key}
    return known
