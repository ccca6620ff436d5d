"""Kubernetes manifests of a bundle: writing them, and checking them.

`emit` writes a kustomize tree whose top is applied with `kubectl apply -k BUNDLE/k8s`; `check` says
of such a tree whether it parses, validates, renders to what it ships, and keeps the rules of
`checks`. `check_directory` applies these rules to anybody's manifests.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checks.bundle_tree import TreeReport
    from .checks.directory import DirectoryReport
    from .release import Release

__all__ = ["check", "check_directory", "emit"]


def emit(dest: Path, release: Release) -> None:
    """Write the tree into the existing, empty directory `dest`.

    Raises `BadInputError` where the name or the image cannot be deployed, and `UsageError` for
    options that do not suit the bundle.
    """
    from .tree import emit as write

    write(dest, release)


def check(k8s_dir: Path) -> TreeReport:
    """Check the tree in `k8s_dir`: one result for each subject of rules, and every finding.

    Raises `BadInputError` where there is no tree at all.
    """
    from .checks.bundle_tree import check_tree

    return check_tree(k8s_dir)


def check_directory(directory: Path) -> DirectoryReport:
    """Check the manifests in a directory, or in one file, whoever wrote them.

    Raises `BadInputError` where there is nothing to check.
    """
    from .checks.directory import check_directory as run

    return run(directory)
