"""Checking the tree of a bundle, as `build` wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...core.checks import Check
from ...core.errors import BadInputError
from ..names import INSTANCE
from .apply import Judgement, judge
from .directory import KUSTOMIZE, Manifests, load
from .documents import objects_of
from .fields import Malformed
from .findings import ERROR, Finding
from .kustomize import find_kubectl
from .object_set import KubeObject
from .schemas import KUBERNETES
from .table import RULES
from .workloads import workloads_of

VARIANTS: Final = {
    "rendered/default.yaml": "kustomization.yaml",
    "rendered/dev.yaml": "overlays/dev/kustomization.yaml",
}
"""The kustomization that each rendered file is of."""

_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class TreeReport:
    """What was checked of a tree, and each finding."""

    checks: list[Check]
    findings: tuple[Finding, ...]


def check_tree(k8s_dir: Path) -> TreeReport:
    """Check the tree in `k8s_dir`; see `nemotron_deploy.k8s.check`."""
    if not (k8s_dir / "kustomization.yaml").is_file():
        raise BadInputError(
            f"{k8s_dir}: no kustomization.yaml, so this is not a bundle's k8s directory. "
            "Give the bundle that `nemo-deploy build` wrote"
        )
    manifests = load(k8s_dir)
    trees = {tree.file: tree.objects for tree in manifests.trees}
    variants = {file: trees.get(file, ()) for file in VARIANTS.values()}
    shipped = {file: _objects(file, manifests) for file in VARIANTS}
    differences = [
        difference
        for file, kustomization in VARIANTS.items()
        for difference in _differences(file, shipped[file], variants[kustomization])
    ]
    # What kubectl renders is what is applied. Rendered files say the same, unless they differ.
    judged = [*variants.values(), *(shipped.values() if differences else ())]
    judgements = [judge(objects) for objects in judged]
    form = [*manifests.findings, *(finding for row in judgements for finding in row.form)]
    # A tree of ours has neither templates nor anything else that cannot be read.
    unread = [f"{note.file}: {note.reason}" for note in manifests.notes]
    of_files = [*(str(f) for f in form if not f.object and f.rule != KUSTOMIZE), *unread]
    refused = [str(finding) for finding in form if finding.rule == KUSTOMIZE]
    of_objects = [finding for finding in form if finding.object]
    count = sum(map(len, judged))
    checks = [
        _result("YAML", of_files, f"{len(manifests.documents)} files parse"),
        _result("overlays", _missing(manifests), f"{len(VARIANTS)}, each rendered"),
        _check("schemas", of_objects, f"{count} objects fit Kubernetes {', '.join(KUBERNETES)}"),
        _kustomize([*refused, *differences] if find_kubectl() else None),
        *_rules(judgements, count),
        _result("overlays apart", _shared(variants), "no object or pod label is shared"),
    ]
    findings = (*form, *(f for row in judgements for rows in row.rules.values() for f in rows))
    return TreeReport(checks, tuple(dict.fromkeys(findings)))


def _objects(file: str, manifests: Manifests) -> tuple[KubeObject, ...]:
    """The objects of one file. What is malformed in it was said when the directory was read."""
    return tuple(objects_of(file, manifests.documents.get(file, []))[0])


def _rules(judgements: list[Judgement], count: int) -> Iterator[Check]:
    """One check for each subject of rules."""
    for subject in RULES:
        findings = [finding for row in judgements for finding in row.rules[subject]]
        yield _check(subject, findings, f"the rules hold for {count} objects")


def _check(name: str, findings: Iterable[Finding], fine: str) -> Check:
    """A check that warnings do not fail."""
    rows = tuple(dict.fromkeys(findings))
    failed = any(finding.severity is ERROR for finding in rows)
    return Check(f"k8s: {name}", not failed, _shown([_text(row) for row in rows]) or fine)


def _text(finding: Finding) -> str:
    return f"{'' if finding.severity is ERROR else 'warning: '}{finding}"


def _result(name: str, problems: Iterable[str], fine: str) -> Check:
    rows = [*problems]
    return Check(f"k8s: {name}", not rows, _shown(rows) or fine)


def _shown(rows: list[str]) -> str:
    return "; ".join(rows[:_SHOWN] + [f"and {len(rows) - _SHOWN} more"] * (len(rows) > _SHOWN))


def _missing(manifests: Manifests) -> Iterator[str]:
    """Variants without their rendered file or their kustomization, and rendered files without."""
    for pair in VARIANTS.items():
        yield from (f"{file}: missing" for file in pair if not manifests.documents.get(file))
    for file in manifests.documents:
        if file.startswith("rendered/") and file not in VARIANTS:
            yield f"{file}: there is no such variant"


def _kustomize(differences: list[str] | None) -> Check:
    """Whether kubectl renders what the tree ships, object by object."""
    if differences is None:
        return _result("kustomize", [], "not compared: there is no kubectl on the PATH")
    return _result("kustomize", differences, "kubectl renders every variant as it is shipped")


def _differences(
    file: str, shipped: tuple[KubeObject, ...], rendered: tuple[KubeObject, ...]
) -> Iterator[str]:
    ours, theirs = ({o.title: o.document for o in objects} for objects in (shipped, rendered))
    for name in sorted(ours.keys() | theirs):
        if name not in theirs:
            yield f"{file}: {name}: kubectl does not render it"
        elif name not in ours:
            yield f"{file}: {name}: missing, kubectl renders it"
        elif ours[name] != theirs[name]:
            yield f"{file}: {name}: differs from kubectl's"


def _shared(variants: dict[str, tuple[KubeObject, ...]]) -> Iterator[str]:
    """What two variants in one namespace have in common: objects, or pods that they select."""
    seen: dict[str, str] = {}
    for file, objects in variants.items():
        names = {item.title for item in objects}
        names |= {f"{INSTANCE}={value}" for item in objects for value in _instances(item)}
        for name in sorted(names):
            if seen.setdefault(name, file) != file:
                yield f"{file}: {name}: also in {seen[name]}"


def _instances(item: KubeObject) -> set[str]:
    """The label that selects the pods of an object; nothing where that is malformed."""
    try:
        labels = [workload.labels for workload in workloads_of(item)]
    except Malformed:
        return set()
    return {row[INSTANCE] for row in labels if INSTANCE in row}
