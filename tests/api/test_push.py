"""`push`: the pod that takes a bundle over, and what keeps it from running. kubectl is a fake; the
copy is the real one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.api.push import push
from nemotron_deploy.cli import run
from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.core.errors import BadInputError, CheckFailedError
from nemotron_deploy.k8s.weights import pod
from nemotron_deploy.runtime.check_bundle import ProgressLines, problems

FAKE = Path(__file__).with_name("pushing_kubectl.py")
READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


class Cluster:
    """What the fake kubectl has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.claim = folder / "volume"
        self.claim.mkdir()
        self.set("pod", READY)
        self.set("claim", {"phase": "Pending"})

    def set(self, kind: str, status: object) -> None:
        (self.folder / f"{kind}-status.json").write_text(json.dumps(status))

    def applied(self, kind: str) -> Any:
        return json.loads((self.folder / f"applied-{kind}.json").read_text())

    def left(self) -> list[str]:
        return [path.name for path in self.folder.glob("pod-*.json") if "status" not in path.name]

    def calls(self) -> list[list[str]]:
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    folder = tmp_path / "cluster"
    folder.mkdir()
    shutil.copy(FAKE, folder / "kubectl")
    (folder / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_KUBECTL", str(folder))
    monkeypatch.setattr(pod, "_POLL_S", 0.01)
    made = Cluster(folder)
    monkeypatch.setattr(import_module("nemotron_deploy.api.push"), "CLAIM", str(made.claim))
    return made


@pytest.fixture
def bundle(built: Callable[[str], Path]) -> Bundle:
    return Bundle.open(built("bf16"))


def test_a_bundle_is_copied_to_the_claim_of_its_manifests(
    bundle: Bundle, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["push", str(bundle.path)]) == 0
    digest = bundle.inputs_digest  # what these manifests name, because a Job can make it, too
    with ProgressLines(write=lambda _: None) as progress:
        assert problems(cluster.claim / digest, progress) == {}
    assert f"claim tiny-h100-bf16 in llm: bundle {digest}, " in capsys.readouterr().out
    assert cluster.left() == []
    assert run(["push", str(bundle.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sent_bytes"] == 0


def test_the_pod_mounts_the_claim_under_restricted_security_without_a_gpu(
    bundle: Bundle, cluster: Cluster
) -> None:
    push(bundle.path)
    made = cluster.applied("pod")
    assert made["metadata"]["name"] == f"tiny-h100-bf16-push-{bundle.inputs_digest[:10]}"
    container = made["spec"]["containers"][0]
    assert "nvidia.com/gpu" not in json.dumps(container["resources"])
    assert made["spec"]["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert made["spec"]["volumes"] == [
        {"name": "bundle", "persistentVolumeClaim": {"claimName": "tiny-h100-bf16"}}
    ]
    assert "tritonserver" in container["image"]
    push(bundle.path, image="mirror/python:3.12")
    assert cluster.applied("pod")["spec"]["containers"][0]["image"] == "mirror/python:3.12"


@pytest.mark.parametrize("phase", ["Pending", "Bound"])
def test_the_first_pod_of_a_claim_goes_where_the_servers_go(
    bundle: Bundle, cluster: Cluster, phase: str
) -> None:
    cluster.set("claim", {"phase": phase})
    push(bundle.path)
    affinity = cluster.applied("pod")["spec"]["affinity"]
    assert ("nodeAffinity" in affinity) == (phase == "Pending")
    assert "podAffinity" in affinity


def test_a_claim_that_is_there_is_left_as_it_is(bundle: Bundle, cluster: Cluster) -> None:
    push(bundle.path)
    (cluster.folder / "applied-claim.json").unlink()
    push(bundle.path)
    assert not (cluster.folder / "applied-claim.json").exists()


def test_manifests_of_another_bundle_are_refused(
    built_copy: Callable[[str], Path], cluster: Cluster
) -> None:
    path = built_copy("bf16")
    rendered = path / "k8s/rendered/default.yaml"
    text = rendered.read_text()
    rendered.write_text(text.replace(Bundle.open(path).inputs_digest, "ab" * 32))
    with pytest.raises(CheckFailedError, match=f"name another bundle \\({'ab' * 32}\\)"):
        push(path)
    rendered.write_text(text.replace("persistentVolumeClaim:", "hostPath:"))
    with pytest.raises(CheckFailedError, match="mount no claim that a bundle could be"):
        push(path)


def waiting(reason: str, message: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "x", "state": state}]}


@pytest.mark.parametrize(
    ("status", "timeout", "said"),
    [
        (
            waiting("ImagePullBackOff", "no such image"),
            300,
            "ImagePullBackOff: no such image. The image must be one that the cluster can pull",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]},
            0.2,
            "does not run after 0 s: 0/3 nodes; see kubectl --context here --namespace llm",
        ),
    ],
)
def test_a_pod_that_does_not_run_is_explained_and_deleted(
    bundle: Bundle, cluster: Cluster, status: object, timeout: float, said: str
) -> None:
    cluster.set("pod", status)
    with pytest.raises(BadInputError) as failed:
        push(bundle.path, timeout=timeout)
    assert said in str(failed.value)
    assert cluster.left() == []


def test_the_context_and_the_namespace_are_those_of_the_options(
    bundle: Bundle, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    push(bundle.path, namespace="other")
    assert all("--namespace=other" in call for call in cluster.calls() if call[0] != "config")
    assert run(["push", str(bundle.path), "--context", "heer"]) == 4
    assert "did you mean here?" in capsys.readouterr().err
