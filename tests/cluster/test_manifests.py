"""What `emit` writes, on a real API server and scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy import k8s
from nemotron_deploy.k8s.options import ClusterOptions
from nemotron_deploy.k8s.release import Release
from nemotron_deploy.model import catalog
from nemotron_deploy.model.spec import Deployment
from nemotron_deploy.runtime.contract import VLLM_SETTINGS

pytestmark = pytest.mark.cluster

Kubectl = Any  # a fixture; its class stands in conftest.py
BUNDLES = {
    "h100": ("int4", "trtllm", "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3", {}),
    "a100": ("int4", "vllm", "nvcr.io/nvidia/tritonserver:26.08-vllm-python-py3", VLLM_SETTINGS),
}
"""A bundle for each engine: format, executor, image and environment."""

NODES = {"h100": {"h100-pcie-0", "h100-sxm-0"}, "a100": {"a100-80-0"}}
WAYS = ("job", "claim", "image")


@pytest.fixture
def way() -> str:
    """How the weights get to the pods, unless a test says otherwise."""
    return "claim"


@pytest.fixture
def tree(tmp_path: Path, gpu: str, way: str) -> Path:
    """The tree of the bundle for `gpu`."""
    quant, executor, image, env = BUNDLES[gpu]
    deployment = Deployment(
        name=name_of(gpu),
        model_name="nemotron-3-nano-30b-a3b",
        image=image,
        gpu=catalog.gpu(gpu),
        gpus=1,
        quant=quant,
        bundle_bytes=19_300_000_000,
        executor=executor,
        max_batch_size=64,
        env=env,
    )
    options = ClusterOptions(weights=way)
    k8s.emit(tmp_path, Release(deployment, "0123456789abcdef" * 4, ("--gpu=h100",), 0, options))
    return tmp_path


def name_of(gpu: str) -> str:
    return f"nemotron-3-nano-30b-a3b-{gpu}-{BUNDLES[gpu][0]}"


def rolled_out(kubectl: Kubectl, namespace: str, name: str) -> bool:
    """Whether the state that was last applied, not one before it, is rolled out."""
    [found] = kubectl.items("deployment", name, f"--namespace={namespace}")
    status = found["status"]
    return bool(
        status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        and status.get("updatedReplicas") == found["spec"]["replicas"]
        and status.get("availableReplicas") == found["spec"]["replicas"]
        and status.get("replicas") == found["spec"]["replicas"]
    )


def pods(kubectl: Kubectl, namespace: str, name: str) -> list[dict[str, Any]]:
    label = f"--selector=app.kubernetes.io/name=tritonserver,app.kubernetes.io/instance={name}"
    found: list[dict[str, Any]] = kubectl.items("pods", f"--namespace={namespace}", label)
    return found


def left_behind(kubectl: Kubectl, namespace: str) -> set[str]:
    """Every object in the namespace but events and those that each namespace has."""
    kinds = kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]
    listed = kubectl.run("get", ",".join(kinds), f"--namespace={namespace}", "--output=name")
    assert listed.returncode == 0, listed.stderr
    own = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    return set(listed.stdout.split()) - own


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gpu", BUNDLES)
def test_tree_comes_up_on_its_gpus_and_goes_without_a_trace(
    kubectl: Kubectl, namespace: str, tree: Path, gpu: str, way: str
) -> None:
    name, scope = name_of(gpu), f"--namespace={namespace}"
    kubectl("apply", "-k", tree, scope)
    difference = kubectl.run("diff", "-k", tree, scope)
    assert difference.returncode == 0, difference.stdout + difference.stderr
    kubectl.until("rollout", lambda: rolled_out(kubectl, namespace, name))
    [pod] = pods(kubectl, namespace, name)
    assert pod["spec"]["nodeName"] in NODES[gpu]
    difference = kubectl.run("diff", "-k", tree, scope)
    assert difference.returncode == 0, difference.stdout + difference.stderr
    kubectl("delete", "-k", tree, scope)
    kubectl.until("nothing left", lambda: not left_behind(kubectl, namespace))


@pytest.mark.parametrize("gpu", BUNDLES)
def test_pod_stays_pending_while_its_gpus_are_away(
    kubectl: Kubectl, namespace: str, tree: Path, gpu: str
) -> None:
    """All other nodes have free GPUs; none of them may take the pod."""
    scope = f"--namespace={namespace}"

    def refused() -> bool:
        found = pods(kubectl, namespace, name_of(gpu))
        conditions = [c for pod in found for c in pod["status"].get("conditions", [])]
        return any(c.get("reason") == "Unschedulable" for c in conditions)

    try:
        kubectl("cordon", *NODES[gpu])
        kubectl("apply", "-k", tree, scope)
        # Not before the claim is bound: an unbound claim is a reason to wait, too.
        claim = (f"pvc/{name_of(gpu)}", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s")
        kubectl("wait", *claim, scope)
        kubectl.until("refusal by the scheduler", refused)
        [pod] = pods(kubectl, namespace, name_of(gpu))
        assert "nodeName" not in pod["spec"]
        assert pod["status"]["phase"] == "Pending"
    finally:
        kubectl("uncordon", *NODES[gpu])
    kubectl.until("rollout", lambda: rolled_out(kubectl, namespace, name_of(gpu)))
    [pod] = pods(kubectl, namespace, name_of(gpu))
    assert pod["spec"]["nodeName"] in NODES[gpu]
    kubectl("delete", "-k", tree, scope)


@pytest.mark.parametrize("gpu", ["h100"])
def test_rendered_file_is_applied_like_the_overlay(
    kubectl: Kubectl, namespace: str, tree: Path, gpu: str
) -> None:
    """For a machine whose kubectl cannot read the tree: one file, the same objects."""
    scope = f"--namespace={namespace}"
    for variant, folder in (("default", tree), ("dev", tree / "overlays/dev")):
        kubectl("apply", f"--filename={tree}/rendered/{variant}.yaml", scope)
        difference = kubectl.run("diff", "-k", folder, scope)
        assert difference.returncode == 0, difference.stdout + difference.stderr


@pytest.mark.parametrize("gpu", ["h100"])
def test_rollout_needs_no_spare_gpu_and_one_pod_may_be_evicted(
    kubectl: Kubectl, namespace: str, tree: Path, gpu: str
) -> None:
    """With exactly one GPU of the kind left over, a changed Deployment still rolls out."""
    scope, name = f"--namespace={namespace}", name_of(gpu)
    kubectl("cordon", "h100-sxm-0")
    try:
        kubectl("apply", "-k", tree, scope)
        kubectl("set", "resources", f"deployment/{name}", "--containers=triton", scope,
                "--requests=nvidia.com/gpu=2", "--limits=nvidia.com/gpu=2")  # fmt: skip
        kubectl.until("rollout", lambda: rolled_out(kubectl, namespace, name))
        [first] = pods(kubectl, namespace, name)
        assert first["spec"]["nodeName"] == "h100-pcie-0"
        kubectl("set", "env", f"deployment/{name}", "CHANGED=1", scope)
        kubectl.until("rollout", lambda: rolled_out(kubectl, namespace, name))
        [second] = kubectl.until("one pod", lambda: pods(kubectl, namespace, name))
        assert second["metadata"]["name"] != first["metadata"]["name"]
        [budget] = kubectl.items("poddisruptionbudget", name, scope)
        assert budget["status"]["disruptionsAllowed"] == 1
    finally:
        kubectl("uncordon", "h100-sxm-0")
