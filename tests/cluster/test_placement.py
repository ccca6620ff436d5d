"""Where the scheduler places the pods of a bundle among nodes that are labelled as clusters do it.

Each node has one GPU, and a Deployment one replica more than there are nodes where it belongs.
Every one of those gets a pod, and the last pod waits although other nodes are free.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy import k8s
from nemotron_deploy.k8s.options import PLATFORMS, ClusterOptions
from nemotron_deploy.k8s.release import Release
from nemotron_deploy.model import catalog
from nemotron_deploy.model.spec import Deployment
from nemotron_deploy.tests.cluster.conftest import gpu_node
from nemotron_deploy.tests.cluster.kubectl import Kubectl

pytestmark = pytest.mark.cluster

HERE = Path(__file__).parent
ROWS: list[dict[str, Any]] = json.loads((HERE / "labelled_nodes.json").read_text(encoding="utf-8"))[
    "nodes"
]
BELONGING = sorted({gpu for row in ROWS for gpu in row["gpus"]})
ENGINES = {
    "trtllm": "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
    "vllm": "nvcr.io/nvidia/tritonserver:26.08-vllm-python-py3",
}
AUTOPILOT = "gke-autopilot"


@pytest.fixture(scope="module")
def nodes(kubectl: Kubectl) -> Iterator[None]:
    """The nodes of the table, and no others that take pods."""
    others = [node["metadata"]["name"] for node in kubectl.items("nodes")]
    kubectl("cordon", *others)
    kubectl.apply(*map(labelled_node, ROWS))
    names = [f"node/{row['name']}" for row in ROWS]
    kubectl("wait", *names, "--for=condition=Ready", "--timeout=60s")
    yield
    kubectl("delete", *names)
    kubectl("uncordon", *others)


def labelled_node(row: dict[str, Any]) -> dict[str, Any]:
    """A node with one GPU that has the labels of a row, and no others about GPUs."""
    size = {"product": "", "memory": 0, "gpus": 1, "cpu": 64, "ram": "1Ti"}
    node = gpu_node({**size, "name": row["name"]})
    labels = node["metadata"]["labels"]
    node["metadata"]["labels"] = {
        **{key: value for key, value in labels.items() if key.startswith("kubernetes.io/")},
        **row["labels"],
    }
    key, value = row.get("taint", "nvidia.com/gpu=present").split("=")
    node["spec"]["taints"] = [{"key": key, "value": value, "effect": "NoSchedule"}]
    amounts = node["status"]["capacity"]
    amounts[row.get("resource", "nvidia.com/gpu")] = amounts.pop("nvidia.com/gpu")
    node["status"] = {"capacity": amounts, "allocatable": amounts}
    return node


def variants() -> Iterator[Any]:
    """Every GPU of the table, and one on every platform; formats and engines take turns."""
    kinds = cycle((quant, engine) for quant in ("bf16", "int4", "fp8") for engine in ENGINES)
    pairs = [*((gpu, "generic") for gpu in BELONGING), *(("h100", name) for name in PLATFORMS[1:])]
    for gpu, platform in pairs:
        yield pytest.param(gpu, platform, *next(kinds), id=f"{gpu}-{platform}")


@pytest.fixture
def autopilot(kubectl: Kubectl, platform: str) -> Iterator[bool]:
    """Whether the platform is GKE's Autopilot, which makes divided and shared nodes only for pods
    that ask for them."""
    divided = ("gke-partition", "gke-shared")
    if platform == AUTOPILOT:
        kubectl("cordon", *divided)
    yield platform == AUTOPILOT
    if platform == AUTOPILOT:
        kubectl("uncordon", *divided)


@pytest.mark.parametrize(("gpu", "platform", "quant", "engine"), list(variants()))
@pytest.mark.usefixtures("nodes")
def test_pods_are_placed_where_they_belong_and_nowhere_else(
    kubectl: Kubectl, namespace: str, tmp_path: Path, autopilot: bool,
    gpu: str, platform: str, quant: str, engine: str,
) -> None:  # fmt: skip
    expected = {row["name"] for row in ROWS if gpu in row["gpus"]}
    if autopilot:  # whose node selector names one kind of machine
        expected = {name for name in expected if name.startswith("gke-") and "mega" not in name}
    deployment = Deployment(
        name="model", model_name="model", image=ENGINES[engine], gpu=catalog.gpu(gpu), gpus=1,
        quant=quant, bundle_bytes=1_000_000_000, executor=engine, max_batch_size=64,
    )  # fmt: skip
    options = ClusterOptions(weights="image", platform=platform, replicas=len(expected) + 1)
    k8s.emit(tmp_path, Release(deployment, "0123456789abcdef" * 4, (), 0, options))
    scope = f"--namespace={namespace}"
    kubectl("apply", "-k", tmp_path, scope)

    def placed() -> tuple[set[str], list[str]]:
        pods = kubectl.items("pods", scope)
        bound = {pod["spec"]["nodeName"] for pod in pods if "nodeName" in pod["spec"]}
        reasons = [
            row["message"]
            for pod in pods
            for row in pod["status"].get("conditions", [])
            if row.get("reason") == "Unschedulable"
        ]
        return bound, reasons

    kubectl.until("all but one pod", lambda: len(placed()[0]) == len(expected) and placed()[1])
    bound, [reason] = placed()
    assert bound == expected
    assert "node(s) didn't match Pod's node affinity/selector" in reason
    kubectl("delete", "-k", tmp_path, scope)
