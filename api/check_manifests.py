"""`check-manifests`: checks Kubernetes manifests, whoever wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..core.result import Result
from ..k8s.checks.directory import Note
from ..k8s.checks.findings import ERROR, Finding


@dataclass(frozen=True, slots=True)
class CheckManifestsResult(Result):
    """What the rules found in a directory of manifests.

    Attributes:
        directory: The directory, or the one file, that was checked.
        ok: Whether no finding is an error.
        objects: How many Kubernetes objects were checked.
        findings: What is wrong with them, errors first.
        notes: Files that were not checked, or not as they will be applied, and why.
    """

    SCHEMA: ClassVar[int] = 1

    directory: Path
    ok: bool
    objects: int
    findings: tuple[Finding, ...]
    notes: tuple[Note, ...]


def check_manifests(directory: str | Path) -> CheckManifestsResult:
    """Check the manifests in a directory and below it: plain YAML, Lists, and kustomize trees.
    Where `kubectl` is on the PATH, it renders these.

    Raises `BadInputError` where there is nothing to check.
    """
    from ..k8s import check_directory

    path = Path(directory)
    report = check_directory(path)
    ok = all(finding.severity is not ERROR for finding in report.findings)
    return CheckManifestsResult(path, ok, report.objects, report.findings, report.notes)
