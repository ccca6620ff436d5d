"""`check-manifests` on directories of other people."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemotron_deploy import k8s
from nemotron_deploy.cli import run
from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.k8s.checks.apply import judge
from nemotron_deploy.k8s.checks.documents import objects_of, parse
from nemotron_deploy.k8s.checks.findings import ERROR

from .planting import write

FOREIGN = Path(__file__).parent / "foreign"

ERRORS: dict[str, set[str]] = {
    "triton": set(),
    "vllm-stack": {"plain-secret", "probe-port"},
    "kserve": {"privileged"},
    "llm-d": {"probe-port"},
    "lists": {"plain-secret", "selector-mismatch", "volume-missing"},
}
"""Directories with manifests as other projects write them, and what is certainly wrong there."""

WARNINGS: dict[str, set[str]] = {
    "triton": {"api-version", "model-control", "scaled-replicas", "service-exposed", "volume-type"},
    "vllm-stack": {"gpu-unknown", "liveness-equal", "single-writer", "service-selector"},
    "kserve": {"image-version", "shared-memory-missing"},
    "llm-d": {"capabilities", "host-path", "liveness-hasty"},
    "lists": {"host-namespaces", "host-port", "image-version"},
}
"""Some of what is doubtful there."""


@pytest.fixture
def without_kubectl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


@pytest.mark.parametrize("project", ERRORS)
def test_manifests_of_other_projects_pass_through(without_kubectl: None, project: str) -> None:
    found = k8s.check_directory(FOREIGN / project).findings
    assert {f.rule for f in found if f.severity is ERROR} == ERRORS[project]
    assert {f.rule for f in found} >= WARNINGS[project]
    assert all(f.file and f.object and f.field and f.reason and f.mend for f in found)


def test_rules_for_bundles_are_for_ours_only(without_kubectl: None) -> None:
    rules = {finding.rule for finding in k8s.check_directory(FOREIGN / "triton").findings}
    assert not rules & {"digest-missing", "bundle-size", "gpu-unplaced", "online", "surge"}


@pytest.mark.parametrize(
    ("words", "is_server"),
    [
        ({"command": ["vllm", "serve", "x"]}, True),
        ({"command": ["bash", "-c", "exec vllm serve x --port 8000"]}, True),
        ({"command": ["python3"], "args": ["-m", "vllm.entrypoints.openai.api_server"]}, True),
        ({"command": ["/opt/tritonserver/bin/tritonserver"]}, True),
        ({"image": "nvcr.io/nim/meta/llama:1"}, True),
        ({"command": ["build"], "args": ["--engine", "vllm", "--out=x"]}, False),
        ({"command": ["build"], "args": ["--engine=vllm"]}, False),
        ({"image": "registry/app:1"}, False),
    ],
)
def test_what_runs_a_model_server_is_told_by_what_it_starts(
    tmp_path: Path, words: dict[str, Any], is_server: bool
) -> None:
    """Only model servers need shared memory, a start-up probe, and the like."""
    container = {"name": "a", "image": "a:1", "livenessProbe": {"tcpSocket": {"port": 1}}, **words}
    write(tmp_path / "pod.yaml", {**POD, "spec": {"containers": [container]}})
    rules = {finding.rule for finding in k8s.check_directory(tmp_path).findings}
    assert ("startup-missing" in rules) == is_server


@pytest.mark.parametrize(("image", "warned"), [("tritonserver:26.08", True), ("app:1", False)])
def test_a_model_server_needs_probes_whatever_ports_it_declares(
    tmp_path: Path, image: str, warned: bool
) -> None:
    pod = {"spec": {"containers": [{"name": "a", "image": image}]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": pod},
    }
    write(tmp_path / "deployment.yaml", deployment)
    rules = {finding.rule for finding in k8s.check_directory(tmp_path).findings}
    assert ("readiness-missing" in rules) == ("liveness-missing" in rules) == warned


def test_a_helm_template_is_named_and_skipped() -> None:
    (note,) = k8s.check_directory(FOREIGN / "vllm-stack").notes
    assert note.file == "templates/deployment.yaml"
    assert "helm template" in note.reason


def test_a_label_of_a_gpu_that_is_nearly_right_is_named() -> None:
    found = k8s.check_directory(FOREIGN / "vllm-stack").findings
    (finding,) = [f for f in found if f.rule == "gpu-unknown"]
    assert finding.field == "spec.template.spec.nodeSelector['nvidia.com/gpu.product']"
    assert "NVIDIA-A100-SXM4-80GB" in finding.mend


def test_items_of_a_list_have_their_path() -> None:
    found = k8s.check_directory(FOREIGN / "lists").findings
    (finding,) = [f for f in found if f.rule == "plain-secret"]
    assert finding.object == "CronJob/nightly"
    assert finding.field == (
        "items[1].spec.jobTemplate.spec.template.spec.containers[0].env[0].value"
    )


def test_kubectl_renders_a_kustomize_tree(kubectl: str) -> None:
    report = k8s.check_directory(FOREIGN / "llm-d")
    assert report.notes == ()
    assert report.objects == 3
    assert {f.object for f in report.findings} == {"LeaderWorkerSet/prod-decode"}


def test_an_overlay_on_top_of_a_bundle_is_clean_with_every_component(
    emit: Callable[..., Path], kubectl: str
) -> None:
    tree = emit()
    components = [f"../k8s/components/{path.name}" for path in (tree / "components").iterdir()]
    overlay = tree.parent / "overlay"
    overlay.mkdir()
    write(overlay / "kustomization.yaml", {"resources": ["../k8s"], "components": components})
    for directory in (overlay, tree.parent):
        report = k8s.check_directory(directory)
        assert (report.findings, report.notes) == ((), ())
        assert report.objects > 10


def test_without_kubectl_the_resources_are_checked_as_they_are(without_kubectl: None) -> None:
    report = k8s.check_directory(FOREIGN / "llm-d")
    (note,) = report.notes
    assert note.file == "overlay/kustomization.yaml"
    assert "no kubectl" in note.reason
    assert {(f.file, f.object) for f in report.findings} == {
        ("base/decode.yaml", "LeaderWorkerSet/decode")
    }


def test_what_kubectl_refuses_is_an_error(kubectl: str, tmp_path: Path) -> None:
    write(tmp_path / "kustomization.yaml", {"resources": ["gone.yaml"]})
    (finding,) = k8s.check_directory(tmp_path).findings
    assert (finding.rule, finding.severity, finding.file) == (
        "kustomize",
        ERROR,
        "kustomization.yaml",
    )
    assert "gone.yaml" in finding.reason


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"resources": ["https://example.com/base?ref=v1", "pod.yaml"]}, "on the network"),
        ({"resources": ["github.com/owner/name/deploy", "pod.yaml"]}, "on the network"),
        ({"resources": ["pod.yaml"], "helmCharts": [{"name": "x"}]}, "Helm charts"),
    ],
)
def test_nothing_is_fetched(tmp_path: Path, field: dict[str, Any], said: str) -> None:
    write(tmp_path / "kustomization.yaml", field)
    write(tmp_path / "pod.yaml", POD)
    report = k8s.check_directory(tmp_path)
    assert report.objects == 1
    assert said in report.notes[0].reason


POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "x"},
    "spec": {
        "containers": [{"name": "a", "image": "a:1", "securityContext": {"privileged": True}}]
    },
}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.yaml", b"apiVersion: [1"),
        ("latin.yaml", b"apiVersion: \xff\xfe"),
        ("set.yaml", b"apiVersion: v1\nkind: Pod\nmetadata: !!set {a}"),
        ("nameless.yaml", b"apiVersion: v1\nkind: Pod"),
        ("kind.yaml", b"apiVersion: v1\nkind: 7\nmetadata: {name: x}"),
        ("item.yaml", b"apiVersion: v1\nkind: List\nitems: [3]"),
        ("pod.yaml", b"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: {}}"),
        ("labels.yaml", b"apiVersion: v1\nkind: Pod\nmetadata: {name: x, labels: {a: 1}}"),
    ],
)
def test_what_is_malformed_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    write(tmp_path / "right.yaml", POD)
    errors = [f for f in k8s.check_directory(tmp_path).findings if f.severity is ERROR]
    assert {(f.rule, f.file) for f in errors} >= {("privileged", "right.yaml")}
    assert {f.rule for f in errors if f.file == name} <= {"malformed", "schema"}
    assert any(f.file == name for f in errors)


@pytest.mark.parametrize(
    "content",
    [
        "replicaCount: 1\nimage: {tag: latest}",
        "services: {web: {image: nginx}}",
        "apiVersion: v2\nname: chart",
        "apiVersion: v1\nkind: Config\nclusters: []",
        "apiVersion: example.com/v1\nkind: Gizmo\nmetadata: {name: x}\nspec: {containers: [1]}",
        "- 1\n- 2",
        "",
    ],
)
def test_what_is_no_manifest_of_kubernetes_passes(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    report = k8s.check_directory(tmp_path)
    assert (report.findings, report.notes) == ((), ())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: &a 1\nb: *a", "aliases"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: &a x, namespace: *a}", "aliases"),
        ("[" * 200, "deeper than"),
        ("a" * 4_000_001, "over 4000000 bytes"),
        ("Resources: !Ref Bucket", "not a manifest"),
        ("a: [1", "not a manifest"),
        ("apiVersion: v1\nname: {{ .Values.name }}:", "helm template"),
    ],
    ids=["aliases", "aliases in a pod", "deep", "large", "tags", "broken", "template"],
)
def test_what_is_not_read_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.yaml").write_text(content)
    report = k8s.check_directory(tmp_path)
    (note,) = report.notes
    assert note.file == "x.yaml"
    assert said in note.reason
    assert report.findings == ()


def test_a_single_file_is_checked(tmp_path: Path) -> None:
    write(tmp_path / "pod.yaml", POD)
    write(tmp_path / "other.yaml", POD)
    report = k8s.check_directory(tmp_path / "pod.yaml")
    assert report.objects == 1
    assert {finding.file for finding in report.findings} == {"pod.yaml"}


def test_json_and_directories_below_are_read(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/pod.json").write_text(json.dumps(POD))
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/pod.json").write_text(json.dumps(POD))
    report = k8s.check_directory(tmp_path)
    assert report.objects == 1
    assert {finding.file for finding in report.findings} == {"a/b/pod.json"}


def test_a_directory_that_cannot_be_read_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the system's refusal is played."""

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(BadInputError, match="cannot be read: Permission denied"):
        k8s.check_directory(tmp_path)


def test_a_directory_below_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "pod.yaml", POD)
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("secret"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = k8s.check_directory(tmp_path).findings
    assert ("malformed", "secret") in {(f.rule, f.file) for f in found}
    assert "privileged" in {f.rule for f in found}


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda _: None, 4),
        (lambda path: path.mkdir(), 4),
        (lambda path: path.write_text("a: 1"), 0),
        (lambda path: write(path, POD), 5),
    ],
    ids=["nothing", "empty", "no object", "privileged"],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    make: Callable[[Path], object],
    code: int,
) -> None:
    make(tmp_path / "x.yaml")
    assert run(["check-manifests", str(tmp_path / "x.yaml")]) == code


def test_the_document_has_every_finding(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path / "pod.yaml", POD)
    assert run(["check-manifests", str(tmp_path), "--json"]) == 5
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["objects"]) == (False, 1)
    assert document["findings"][0] == {
        "rule": "privileged",
        "severity": "error",
        "file": "pod.yaml",
        "object": "Pod/x",
        "field": "spec.containers[0].securityContext.privileged",
        "reason": "the container is privileged",
        "mend": "Remove privileged: true",
    }


def test_people_read_what_to_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path / "pod.yaml", POD)
    run(["check-manifests", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "pod.yaml  Pod/x" in shown
    assert "the container is privileged" in shown
    assert "1 object: 1 error," in shown


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=4,
)


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a document."""
    children = node.items() if isinstance(node, dict) else enumerate(node)
    found = [path] if path else []
    for key, child in children if isinstance(node, (dict, list)) else ():
        found += paths(child, (*path, key)) if isinstance(child, (dict, list)) else [(*path, key)]
    return found


def replaced(node: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a document with another value at `path`."""
    if not path:
        return value
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[path[0]] = replaced(node[path[0]], path[1:], value)
    return copy


def documents(path: Path) -> list[Any]:
    """The objects of a file; none of a template."""
    text = path.read_text()
    rows = [] if "{{" in text else parse(text)
    return [row for row in rows if isinstance(row, dict) and "metadata" in row]


GOLDEN = Path(__file__).parent / "golden/h100-int4/rendered/default.yaml"
GROUPS = [
    group for path in [GOLDEN, *sorted(FOREIGN.rglob("*.yaml"))] if (group := documents(path))
]
"""Objects that are applied together, ours and others'."""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_document_makes_a_rule_fail(data: st.DataObject) -> None:
    """Wrong types anywhere are a finding, or pass; never a crash."""
    group = data.draw(st.sampled_from(GROUPS))
    index = data.draw(st.integers(0, len(group) - 1))
    mutated = group[index]
    for _ in range(data.draw(st.integers(1, 3))):
        places = paths(mutated)
        if not places:
            break
        place = data.draw(st.sampled_from(places))
        mutated = replaced(mutated, place, data.draw(junk))
    found, malformed = objects_of("x.yaml", [*group[:index], mutated, *group[index + 1 :]])
    findings = [*judge(found).findings, *malformed]
    assert all(f.rule and f.reason and f.mend for f in findings)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_no_file_makes_the_reader_fail(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    (folder / "x.yaml").write_bytes(b"kind: Pod\napiVersion: v1\nmetadata: {name: x}\n" + data)
    (folder / "kustomization.yaml").write_bytes(b"resources:\n- " + data)
    assert k8s.check_directory(folder).objects >= 0
