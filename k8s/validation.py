"""Check a tree: YAML, schemas, kubectl's own rendering, and the rules."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from ..core.checks import Check
from ..core.errors import BadInputError
from ..runtime.yaml_reader import load_yaml, read_yaml
from .manifest import Rendered
from .names import INSTANCE
from .rules import RULES
from .yaml_text import Object, by_title, title

KUBERNETES: Final = ("1.30", "1.37")
"""Releases whose schemas the objects must satisfy: the oldest that can run them, and the newest
that `kubernetes-validate` knew when this was written."""

VARIANTS: Final = {"default": ".", "dev": "overlays/dev"}
"""Where each file in `rendered` comes from."""

_KUBECTL_S: Final = 60

EXTENSIONS: Final = ("keda.sh", "gateway.networking.k8s.io")
"""API groups that a tree may use and that are no part of Kubernetes."""

SINCE: Final = {"resource.k8s.io/v1": ("1.34", "1.37")}
"""Releases to check a tree against that uses an API which the oldest one does not have."""

_SHOWN: Final = 10


def check(k8s_dir: Path) -> list[Check]:
    """Check the tree; see `nemotron_deploy.k8s.check`. Later checks need what earlier ones found:
    where a file does not parse or an object is malformed, the list ends there."""
    if not (k8s_dir / "kustomization.yaml").is_file():
        raise BadInputError(
            f"{k8s_dir}: no kustomization.yaml, so this is not a bundle's k8s directory. "
            "Give the bundle that `nemo-deploy build` wrote"
        )
    files, problems = _parse(k8s_dir)
    checks = [_result("YAML", problems, f"{len(files)} files parse")]
    if problems:
        return checks
    rendered = [
        Rendered(name, tuple(documents))
        for name, documents in files.items()
        if name.startswith("rendered/")
    ]
    checks.append(_overlays_rendered(k8s_dir, rendered))
    count = sum(len(r.documents) for r in rendered)
    problems = [f"{r.path}: {problem}" for r in rendered for problem in _malformed(r.documents)]
    versions = ", ".join(KUBERNETES)
    checks.append(_result("schemas", problems, f"{count} objects fit Kubernetes {versions}"))
    if problems:
        return checks
    return [*checks, _kubectl_agrees(k8s_dir, rendered), *_rules(rendered), _apart(rendered)]


def _result(name: str, problems: Iterable[str], fine: str) -> Check:
    found = list(problems)
    shown = found[:_SHOWN] + [f"and {len(found) - _SHOWN} more"] * (len(found) > _SHOWN)
    return Check(f"k8s: {name}", not found, "; ".join(shown) if found else fine)


def _parse(k8s_dir: Path) -> tuple[dict[str, list[Any]], list[str]]:
    """Documents of every YAML file by its path in the tree, and what does not parse."""
    files: dict[str, list[Any]] = {}
    problems = []
    for path in sorted(k8s_dir.rglob("*.yaml")):
        name = path.relative_to(k8s_dir).as_posix()
        try:
            files[name] = read_yaml(path)
        except (OSError, ValueError) as error:
            problems.append(f"{name}: {' '.join(str(error).split())}")
    return files, problems


def _overlays_rendered(k8s_dir: Path, rendered: list[Rendered]) -> Check:
    files = {Path(r.path).stem for r in rendered if r.documents}
    problems = [f"rendered/{name}.yaml: missing" for name in sorted(VARIANTS.keys() - files)]
    problems += [
        f"rendered/{name}.yaml: no such variant" for name in sorted(files - VARIANTS.keys())
    ]
    problems += [
        f"{folder}/kustomization.yaml: missing"
        for folder in VARIANTS.values()
        if not (k8s_dir / folder / "kustomization.yaml").is_file()
    ]
    return _result("overlays", problems, f"{', '.join(VARIANTS)}, each rendered")


def _malformed(documents: Iterable[Object]) -> list[str]:
    documents = list(documents)
    used = [d.get("apiVersion") for d in documents if isinstance(d, dict)]
    releases = next((SINCE[api] for api in used if api in SINCE), KUBERNETES)
    problems = []
    for document in documents:
        if not isinstance(document, dict) or not {"apiVersion", "kind"} <= document.keys():
            problems.append("a document is not a Kubernetes object")
        elif not isinstance(document.get("metadata"), dict) or "name" not in document["metadata"]:
            problems.append(f"a {document['kind']} has no name")
        else:
            problems += [f"{title(document)}: {e}" for e in _schema_errors(document, releases)]
    return problems


def _schema_errors(document: Object, releases: tuple[str, ...]) -> list[str]:
    import kubernetes_validate as schemas

    errors = []
    for version in releases:
        try:
            schemas.validate(document, version, strict=True)
        except schemas.ValidationError as error:
            where = ".".join(str(step) for step in error.path)
            errors.append(f"{where}: {error.message} (Kubernetes {version})")
        except schemas.SchemaNotFoundError as error:
            if str(document["apiVersion"]).partition("/")[0] not in EXTENSIONS:
                errors.append(error.message)
    return errors


def _kubectl_agrees(k8s_dir: Path, rendered: list[Rendered]) -> Check:
    """Whether kubectl renders what the tree ships, object by object."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return _result("kustomize", [], "not compared: there is no kubectl on the PATH")
    problems = []
    for shipped in rendered:
        overlay = k8s_dir / VARIANTS.get(Path(shipped.path).stem, "nowhere")
        if overlay.is_dir():
            problems += [
                f"{shipped.path}: {problem}" for problem in _differences(kubectl, overlay, shipped)
            ]
    return _result("kustomize", problems, "kubectl renders every overlay as it is shipped")


def _differences(kubectl: str, overlay: Path, shipped: Rendered) -> list[str]:
    command = [kubectl, "kustomize", str(overlay)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_KUBECTL_S)
    except subprocess.TimeoutExpired:
        return [f"kubectl kustomize did not end within {_KUBECTL_S} s"]
    if done.returncode:
        return [f"kubectl kustomize: {' '.join(done.stderr.split())}"]
    theirs, ours = by_title(load_yaml(done.stdout)), by_title(shipped.documents)
    problems = [f"{name}: kubectl does not render it" for name in sorted(ours.keys() - theirs)]
    problems += [f"{name}: missing, kubectl renders it" for name in sorted(theirs.keys() - ours)]
    both = sorted(ours.keys() & theirs)
    return problems + [f"{n}: differs from kubectl's" for n in both if ours[n] != theirs[n]]


def _rules(rendered: list[Rendered]) -> list[Check]:
    def problems(rule: str) -> list[str]:
        return [f"{r.path}: {problem}" for r in rendered for problem in _applied(rule, r)]

    where = f"kept in {len(rendered)} overlays"
    return [_result(name, problems(name), where) for name in RULES]


def _applied(rule: str, rendered: Rendered) -> list[str]:
    try:
        return list(RULES[rule](rendered))
    except ValueError as error:  # a quantity that is none
        where = ", ".join(title(document) for document in rendered.of_kind("Deployment"))
        return [f"{where}: {error}"]


def _apart(rendered: list[Rendered]) -> Check:
    """Two overlays in one namespace share no object, and select none of each other's pods."""
    seen: dict[str, str] = {}
    problems = []
    for overlay in rendered:
        instances = {_instance(d["spec"]["template"]) for d in overlay.of_kind("Deployment")}
        for name in [*map(title, overlay.documents), *(f"{INSTANCE}={i}" for i in instances)]:
            if name in seen:
                problems.append(f"{overlay.path}: {name}: also in {seen[name]}")
            seen[name] = overlay.path
    return _result("overlays apart", problems, "no object or pod label is shared")


def _instance(template: Mapping[str, Any]) -> str:
    return str(template.get("metadata", {}).get("labels", {}).get(INSTANCE, ""))
