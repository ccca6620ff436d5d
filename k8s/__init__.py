"""Kubernetes manifests of a bundle: writing them, and checking them.

`emit` writes a kustomize tree whose top is applied with `kubectl apply -k BUNDLE/k8s`; `check` says
of such a tree whether it parses, validates, renders to what it ships, and keeps the rules below.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.checks import Check
    from .release import Release

__all__ = ["check", "emit"]


def emit(dest: Path, release: Release) -> None:
    """Write the tree into the existing, empty directory `dest`.

    Raises `BadInputError` where the name or the image cannot be deployed, and `UsageError` for
    options that do not suit the bundle.
    """
    from .tree import emit as write

    write(dest, release)


def check(k8s_dir: Path) -> list[Check]:
    """Check the tree in `k8s_dir`: one result for each file group, variant and rule.

    Raises `BadInputError` where there is no tree at all.
    """
    from .validation import check as run

    return run(k8s_dir)
