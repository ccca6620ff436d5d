"""What `verify` says of the tree of a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nemotron_deploy import k8s
from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.k8s.checks.findings import ERROR, WARNING

from .planting import plant, read, write

Emit = Callable[..., Path]


@pytest.fixture
def tree(emit: Emit, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A right tree, on a machine without kubectl (which would find every broken one different)."""
    made = emit()
    monkeypatch.setenv("PATH", "")
    return made


def failed(tree: Path) -> dict[str, str]:
    return {check.name: check.detail for check in k8s.check(tree).checks if not check.ok}


def test_right_tree_passes_without_kubectl(tree: Path) -> None:
    report = k8s.check(tree)
    assert not failed(tree)
    assert report.findings == ()
    skipped = next(check for check in report.checks if check.name == "k8s: kustomize")
    assert "no kubectl" in skipped.detail


def test_right_tree_passes_with_kubectl(emit: Emit, kubectl: str) -> None:
    report = k8s.check(emit({"namespace": "llm"}))
    assert [check for check in report.checks if not check.ok] == []
    assert report.findings == ()


def test_a_mistake_fails_the_check_of_its_subject(tree: Path) -> None:
    place = plant(tree, "server securityContext privileged", True)
    (finding,) = k8s.check(tree).findings
    assert (finding.rule, finding.severity, finding.file) == ("privileged", ERROR, place.file)
    assert failed(tree) == {"k8s: security": str(finding)}
    assert f"{place.file}: {place.object}: {place.field}: " in str(finding)


def test_a_warning_is_shown_and_fails_nothing(tree: Path) -> None:
    plant(tree, "claim resources requests storage", "20G")
    report = k8s.check(tree)
    (finding,) = report.findings
    assert (finding.rule, finding.severity) == ("claim-room", WARNING)
    assert not failed(tree)
    details = {check.name: check.detail for check in report.checks}
    assert details["k8s: resources"] == f"warning: {finding}"


def test_the_variant_for_development_is_checked_too(tree: Path) -> None:
    path = tree / "overlays/dev/deployment.yaml"
    document = read(path)
    del document["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
    write(path, document)
    (finding,) = k8s.check(tree).findings
    assert (finding.rule, finding.file) == ("readiness-missing", "overlays/dev/deployment.yaml")


def test_a_mistake_in_what_was_rendered_is_found(tree: Path) -> None:
    path = tree / "rendered/default.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("maxUnavailable: 1\n  unhealthy", "maxUnavailable: 0\n  unhealthy")
    )
    (finding,) = k8s.check(tree).findings
    assert (finding.rule, finding.file) == ("budget-blocks", "rendered/default.yaml")


def test_unknown_field_fails_the_schema(tree: Path) -> None:
    plant(tree, "server imagePullPolice", "Never")
    found = failed(tree)
    assert list(found) == ["k8s: schemas"]
    assert "imagePullPolice" in found["k8s: schemas"]
    assert "deployment.yaml: Deployment/nemotron" in found["k8s: schemas"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Service\napiVersion: v1", "must be the object's name"),
        ("kind: Service\nmetadata: {name: x}", "apiVersion and kind must be text"),
        ("kind: Deployment\napiVersion: apps/v1\nmetadata: {name: x}\nspec: 7", "Deployment/x"),
        ("kind: Deployment\napiVersion: apps/v1\nmetadata: [x]", "must be a mapping"),
    ],
)
def test_documents_that_are_no_objects_are_named(tree: Path, text: str, said: str) -> None:
    (tree / "service.yaml").write_text(text, encoding="utf-8")
    found = failed(tree)
    details = "; ".join(found.values())
    assert "service.yaml" in details
    assert said in details


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe", b"a: *nobody"])
def test_file_that_does_not_parse_is_named(tree: Path, content: bytes) -> None:
    (tree / "service.yaml").write_bytes(content)
    assert "service.yaml" in failed(tree)["k8s: YAML"]


def test_a_variant_without_its_rendering_is_found(tree: Path) -> None:
    (tree / "rendered/dev.yaml").rename(tree / "rendered/other.yaml")
    detail = failed(tree)["k8s: overlays"]
    assert "rendered/dev.yaml: missing" in detail
    assert "rendered/other.yaml: there is no such variant" in detail


def test_variants_that_share_pods_are_found(tree: Path) -> None:
    shutil.copy(tree / "deployment.yaml", tree / "overlays/dev/deployment.yaml")
    assert "also in kustomization.yaml" in failed(tree)["k8s: overlays apart"]


def test_directory_without_a_tree_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no kustomization\.yaml"):
        k8s.check(tmp_path)


def test_kubectl_finds_an_edited_object(emit: Emit, kubectl: str) -> None:
    tree = emit()
    path = tree / "service.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("8001", "9001"), encoding="utf-8")
    (tree / "overlays/dev/kustomization.yaml").write_text("resources: [gone.yaml]")
    found = failed(tree)
    assert "rendered/default.yaml: Service/nemotron-3-nano" in found["k8s: kustomize"]
    assert "kubectl kustomize:" in found["k8s: kustomize"]
    assert "gone.yaml" in found["k8s: kustomize"]


def test_names_of_checks_are_unique(tree: Path) -> None:
    checks = k8s.check(tree).checks
    assert len({check.name for check in checks}) == len(checks)
