"""Each rule is broken once, in a tree that is right otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nemotron_deploy import k8s
from nemotron_deploy.core.checks import Check
from nemotron_deploy.core.errors import BadInputError

Emit = Callable[..., Path]


@pytest.fixture
def tree(emit: Emit, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A right tree, on a machine without kubectl (which would find every broken one different)."""
    made = emit()
    monkeypatch.setenv("PATH", "")
    return made


@pytest.fixture
def claim_tree(tree: Path) -> Path:
    """The same with one overlay only: less to check."""
    shutil.rmtree(tree / "overlays/image")
    (tree / "rendered/image.yaml").unlink()
    return tree


def failed(tree: Path) -> dict[str, str]:
    return {check.name: check.detail for check in k8s.check(tree) if not check.ok}


def read_rendered(tree: Path) -> list[dict[str, Any]]:
    text = (tree / "rendered/claim.yaml").read_text(encoding="utf-8")
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def write_rendered(tree: Path, documents: list[dict[str, Any]]) -> None:
    text = yaml.safe_dump_all(documents)
    (tree / "rendered/claim.yaml").write_text(text, encoding="utf-8")


GONE = object()
"""Instead of a value: the field is taken out."""

ROOTS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "deployment": ("Deployment", ("spec",)),
    "pod": ("Deployment", ("spec", "template", "spec")),
    "server": ("Deployment", ("spec", "template", "spec", "containers", 0)),
    "openai": ("Deployment", ("spec", "template", "spec", "containers", 1)),
    "init": ("Deployment", ("spec", "template", "spec", "initContainers", 0)),
    "service": ("Service", ("spec",)),
    "budget": ("PodDisruptionBudget", ("spec",)),
    "policy": ("NetworkPolicy", ("spec",)),
}
"""First word of a path below: the kind of object it is in, and where it starts."""


def change(documents: list[dict[str, Any]], path: str, value: object) -> str:
    """Set the field at `path` (words; a number is an index, `+` a new element) in the object that
    its first word names; the object's kind."""
    root, *words = path.split()
    kind, start = ROOTS[root]
    node: Any = next(document for document in documents if document["kind"] == kind)
    steps = [*start, *(int(word) if word.isdecimal() else word for word in words)]
    for step in steps[:-1]:
        node = node[step]
    if value is GONE:
        del node[steps[-1]]
    elif steps[-1] == "+":
        node.append(value)
    else:
        node[steps[-1]] = value
    return kind


NO_FLAG = "--log-info=true"
"""Instead of a flag that a rule wants; says nothing that a rule reads."""

BREAKS: dict[str, tuple[str, str, object]] = {
    "half a GPU": ("GPU request", "server resources limits nvidia.com/gpu", "500m"),
    "GPU request below limit": ("GPU request", "server resources limits nvidia.com/gpu", "2"),
    "no GPU": ("GPU request", "server resources limits nvidia.com/gpu", GONE),
    "no toleration": ("GPU placement", "pod tolerations", GONE),
    "any GPU": ("GPU placement", "pod affinity", GONE),
    "default /dev/shm": ("shared memory", "server volumeMounts 0", GONE),
    "unbounded /dev/shm": ("shared memory", "pod volumes 0 emptyDir sizeLimit", GONE),
    "/dev/shm above memory": ("shared memory", "pod volumes 0 emptyDir sizeLimit", "1Ti"),
    "no memory limit": ("resources", "init resources limits memory", GONE),
    "request above limit": ("resources", "server resources requests cpu", "17"),
    "not a quantity": ("resources", "server resources limits memory", "much"),
    "impatient probe": ("start-up budget", "server startupProbe failureThreshold", 60),
    "no start-up probe": ("start-up budget", "server startupProbe", GONE),
    "impatient rollout": ("start-up budget", "deployment progressDeadlineSeconds", 1200),
    "short grace": ("draining", "pod terminationGracePeriodSeconds", 30),
    "no preStop": ("draining", "server lifecycle", GONE),
    "no exit timeout": ("draining", "server args 3", NO_FLAG),
    "old channels": ("draining", "server args 4", "--grpc-max-connection-age=14500"),
    "channel grace": ("draining", "server args +", "--grpc-max-connection-age-grace=6000"),
    "endpoint of another version": ("OpenAI endpoint", "openai image", "registry/triton:1"),
    "endpoint of another pod": ("OpenAI endpoint", "openai args 1", "--grpc=triton:8001"),
    "endpoint without preStop": ("OpenAI endpoint", "openai lifecycle", GONE),
    "endpoint that ends early": ("OpenAI endpoint", "openai args 4", "--grace=5"),
    "keys in the image": ("API keys", "openai args 5", "--api-keys=/bundle/keys"),
    "keys that never change": ("API keys", "openai volumeMounts 1 subPath", "keys"),
    "keys of a file": ("API keys", "pod volumes 3", {"name": "api-keys", "emptyDir": {}}),
    "unconfined endpoint": ("restricted pods", "openai securityContext", GONE),
    "surge": ("no surge", "deployment strategy rollingUpdate maxSurge", "25%"),
    "default strategy": ("no surge", "deployment strategy", GONE),
    "latest": ("pinned images", "server image", "localhost:5000/x:latest"),
    "no tag": ("pinned images", "init image", "localhost:5000/x"),
    "load balancer": ("private ports", "service type", "LoadBalancer"),
    "public metrics": ("private ports", "service ports +", {"port": 8002, "targetPort": "metrics"}),
    "dangling port": ("private ports", "service ports 0 targetPort", "gprc"),
    "pods of another": ("selectors", "service selector app.kubernetes.io/instance", "other"),
    "budget of another": ("selectors", "budget selector matchLabels", {"app": "x"}),
    "policy of every pod": ("selectors", "policy podSelector", {}),
    "root": ("restricted pods", "pod securityContext runAsNonRoot", GONE),
    "seccomp": ("restricted pods", "pod securityContext seccompProfile", GONE),
    "writable root": ("restricted pods", "server securityContext readOnlyRootFilesystem", GONE),
    "capabilities": ("restricted pods", "init securityContext capabilities", GONE),
    "token": ("restricted pods", "pod automountServiceAccountToken", GONE),
    "host path": ("restricted pods", "pod volumes +", {"name": "h", "hostPath": {"path": "/"}}),
    "host network": ("restricted pods", "pod hostNetwork", True),
    "loading at run time": ("fixed models", "server args 1", "--model-control-mode=explicit"),
    "completed configurations": ("fixed models", "server args 2", NO_FLAG),
    "unbounded responses": ("fixed models", "server args 5", NO_FLAG),
    "writable bundle": ("fixed models", "server volumeMounts 3 readOnly", GONE),
    "online": ("fixed models", "server env 1", GONE),
}


def test_right_tree_passes_with_and_without_kubectl(emit: Emit, tree: Path) -> None:
    checks = k8s.check(tree)
    assert all(check.ok for check in checks), checks
    skipped = next(check for check in checks if check.name == "k8s: kustomize")
    assert "no kubectl" in skipped.detail


@pytest.mark.parametrize("case", BREAKS)
def test_broken_rule_is_found_in_its_file_and_object(claim_tree: Path, case: str) -> None:
    rule, path, value = BREAKS[case]
    documents = read_rendered(claim_tree)
    kind = change(documents, path, value)
    write_rendered(claim_tree, documents)
    found = failed(claim_tree)
    assert f"rendered/claim.yaml: {kind}/nemotron-3-nano" in found[f"k8s: {rule}"]


def test_a_secret_in_the_tree_is_found(claim_tree: Path) -> None:
    documents = read_rendered(claim_tree)
    metadata = {"name": "nemotron-3-nano-keys"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"keys": "c2s="}}
    write_rendered(claim_tree, [*documents, secret])
    assert "Secret/nemotron-3-nano-keys: holds secrets" in failed(claim_tree)["k8s: API keys"]


def test_an_endpoint_that_cannot_start_is_found(claim_tree: Path) -> None:
    """It listens on all addresses, which it refuses unless it is told whom to let in."""
    documents = read_rendered(claim_tree)
    change(documents, "openai args 6", NO_FLAG)
    change(documents, "openai args 5", NO_FLAG)
    write_rendered(claim_tree, documents)
    assert "needs --api-keys, --without-keys or both" in failed(claim_tree)["k8s: API keys"]


def test_unknown_field_fails_the_schema(tree: Path) -> None:
    documents = read_rendered(tree)
    change(documents, "server imagePullPolice", "Never")
    write_rendered(tree, documents)
    found = failed(tree)
    assert list(found) == ["k8s: schemas"]
    assert "imagePullPolice" in found["k8s: schemas"]
    assert "rendered/claim.yaml: Deployment/nemotron" in found["k8s: schemas"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "not a Kubernetes object"),
        ("kind: Service\napiVersion: v1", "a Service has no name"),
        ("kind: Gizmo\napiVersion: v9\nmetadata: {name: x}", "Gizmo"),
        ("kind: Deployment\napiVersion: apps/v1\nmetadata: {name: x}\nspec: 7", "Deployment/x"),
    ],
)
def test_documents_that_are_no_objects_are_named(tree: Path, text: str, said: str) -> None:
    (tree / "rendered/image.yaml").write_text(text, encoding="utf-8")
    found: dict[str, str] = failed(tree)
    assert "rendered/image.yaml" in found["k8s: schemas"]
    assert said in found["k8s: schemas"]


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe", b"a: *nobody"])
def test_file_that_does_not_parse_is_named(tree: Path, content: bytes) -> None:
    (tree / "base/service.yaml").write_bytes(content)
    assert "base/service.yaml" in failed(tree)["k8s: YAML"]


def test_overlay_without_its_rendering_is_found(tree: Path) -> None:
    (tree / "rendered/image.yaml").rename(tree / "rendered/other.yaml")
    detail = failed(tree)["k8s: overlays"]
    assert "no rendered/image.yaml" in detail
    assert "other.yaml: no such overlay" in detail


def test_overlays_that_share_pods_are_found(tree: Path) -> None:
    claim = (tree / "rendered/claim.yaml").read_text(encoding="utf-8")
    (tree / "rendered/image.yaml").write_text(claim, encoding="utf-8")
    assert "also in rendered/claim.yaml" in failed(tree)["k8s: overlays apart"]


def test_directory_without_a_tree_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no kustomization\.yaml"):
        k8s.check(tmp_path)


def test_kubectl_finds_an_edited_base(emit: Emit, kubectl: str) -> None:
    tree = emit()
    path = tree / "base/service.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("8001", "9001"), encoding="utf-8")
    (tree / "overlays/image/kustomization.yaml").write_text("resources: [gone.yaml]")
    detail = failed(tree)["k8s: kustomize"]
    assert "rendered/claim.yaml: Service/nemotron-3-nano" in detail
    assert "rendered/image.yaml: kubectl kustomize:" in detail
    assert "gone.yaml" in detail


def test_names_of_checks_are_unique(tree: Path) -> None:
    checks: list[Check] = k8s.check(tree)
    assert len({check.name for check in checks}) == len(checks)
