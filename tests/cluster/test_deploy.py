"""`deploy` on a real API server and scheduler; kwok plays the nodes, so that nothing runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.cli import run
from nemotron_deploy.k8s.deploy import watch
from nemotron_deploy.tests.cluster.made_bundle import NAME, make_bundle

pytestmark = pytest.mark.cluster

Kubectl = Any  # a fixture; its class stands in conftest.py


def why(result: Any) -> str:
    """What a document says of its end, for a failing test."""
    return json.dumps({key: result[key] for key in ("state", "stages", "diagnoses")})


Deploy = Callable[..., tuple[int, Any]]


@pytest.fixture
def deploy(
    kubectl: Kubectl,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Deploy:
    """Runs the command in the test's namespace; gives its exit code and its document."""
    binary, kubeconfig = Path(kubectl.command[0]), kubectl.command[1].partition("=")[2]
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    monkeypatch.setenv("PATH", f"{binary.parent}:/usr/bin:/bin")

    monkeypatch.setattr(watch, "NODE_S", 3.0)
    monkeypatch.setattr(watch, "SETTLE_S", 3.0)  # nothing here adds nodes or volumes by itself

    def call(bundle: Path, *options: str) -> tuple[int, Any]:
        words = (str(bundle), f"--namespace={namespace}", "--json", "--timeout=90", *options)
        code = run(["deploy", *words])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else printed.err

    return call


def test_a_bundle_is_deployed_and_the_next_one_takes_its_place(
    deploy: Deploy, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    first, second = make_bundle(tmp_path, "1"), make_bundle(tmp_path, "2")
    scope = f"--namespace={namespace}"

    code, result = deploy(first, "--dry-run")
    assert (code, result["state"]) == (0, "dry-run"), why(result)
    assert {change["created"] for change in result["plan"]["changes"]} == {True}
    assert f"Deployment/{NAME}" in [change["object"] for change in result["plan"]["changes"]]
    assert not kubectl.items("deployments", scope)

    code, result = deploy(first)
    assert (code, result["state"]) == (0, "ready"), why(result)
    assert not result["plan"]["outage"]["happens"]
    assert "filling" in [row["stage"] for row in result["stages"]]

    code, result = deploy(first)
    assert (code, result["state"], result["plan"]["changes"]) == (0, "ready", []), why(result)

    code, result = deploy(second)
    assert (code, result["state"]) == (0, "ready"), why(result)
    assert result["plan"]["outage"]["happens"], "one replica, no spare GPU"
    [deployment] = kubectl.items("deployments", scope, "--show-managed-fields")
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["nemo-deploy/bundle"] == result["digest"]
    managers = {row["manager"] for row in deployment["metadata"]["managedFields"]}
    assert "nemo-deploy" in managers

    kubectl("set", "image", f"deployment/{NAME}", "triton=example.com/other:1", scope)
    code, message = deploy(second)
    assert code == 5
    assert 'kubectl-set owns .spec.template.spec.containers[name="triton"].image' in message


def test_a_bundle_that_kubectl_applied_is_taken_over(
    deploy: Deploy, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    first, second = make_bundle(tmp_path, "1"), make_bundle(tmp_path, "2")
    kubectl("apply", "-k", first / "k8s", f"--namespace={namespace}")
    code, result = deploy(second)
    assert (code, result["state"]) == (0, "ready"), why(result)
    assert result["plan"]["takes_over"]


def test_a_pod_without_a_node_ends_the_command_with_its_reason(
    deploy: Deploy, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path, "1", gpu="b200")
    code, result = deploy(bundle)
    assert (code, result["state"]) == (5, "stalled"), why(result)
    (first, *_) = result["diagnoses"]
    assert first["cause"] == "no-matching-node"
    assert "no node fits; the nearest of" in first["message"]
    assert "; the pod requires NVIDIA-B200" in first["message"]
    assert any("no node fits" in warning for warning in result["plan"]["warnings"])


def test_what_the_namespace_refuses_is_known_before_anything_is_applied(
    deploy: Deploy, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-gpus", "namespace": namespace},
        "spec": {"hard": {"requests.nvidia.com/gpu": "0"}},
    }
    kubectl.apply(quota)
    kubectl.until(
        "the quota's status",
        lambda: (
            kubectl.items("resourcequota", "no-gpus", f"--namespace={namespace}")[0]
            .get("status", {})
            .get("hard")
        ),
    )
    code, result = deploy(make_bundle(tmp_path, "1"))
    assert (code, result["state"]) == (5, "refused"), why(result)
    (refusal,) = result["plan"]["refusals"]
    assert refusal["cause"] == "quota"
    assert "requests.nvidia.com/gpu=1" in refusal["message"]
    assert not kubectl.items("deployments", f"--namespace={namespace}")


def test_without_a_default_storage_class_the_claim_is_named(
    deploy: Deploy, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    default = "storageclass.kubernetes.io/is-default-class"
    kubectl("annotate", "storageclass", "manual", f"{default}=false", "--overwrite")
    try:
        code, result = deploy(make_bundle(tmp_path, "1"))
    finally:
        # With a default class again, the claim would take the volume of the test after this one.
        kubectl("delete", "persistentvolumeclaims", "--all", f"--namespace={namespace}")
        kubectl("annotate", "storageclass", "manual", f"{default}=true", "--overwrite")
    assert (code, result["state"]) == (5, "stalled"), why(result)
    causes = [row["cause"] for row in result["diagnoses"]]
    assert causes == ["no-storage-class"]
    assert "it has manual" in result["diagnoses"][0]["message"]
