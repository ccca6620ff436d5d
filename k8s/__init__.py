"""Kubernetes manifests of a bundle: writing them, and checking them.

`emit` writes a kustomize tree whose top is applied with `kubectl apply -k BUNDLE/k8s`; `check` says
of such a tree whether it parses, validates, renders to what it ships, and keeps the rules below.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core.checks import Check
    from ..model.spec import Deployment

__all__ = ["check", "emit"]


def emit(dest: Path, deployment: Deployment) -> None:
    """Write the tree into the existing, empty directory `dest`.

    Raises `BadInputError` where `deployment.name` or `deployment.image` cannot be deployed.
    """
    from .tree import emit as write

    write(dest, deployment)


def check(k8s_dir: Path) -> list[Check]:
    """Check the tree in `k8s_dir`: one result for each file group, overlay and rule.

    Raises `BadInputError` where there is no tree at all.
    """
    from .validation import check as run

    return run(k8s_dir)
