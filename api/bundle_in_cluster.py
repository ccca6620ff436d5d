"""A bundle's manifests, and the cluster and namespace that they are for."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..core.bundle import Bundle
from ..core.errors import CheckFailedError, UsageError
from ..k8s.deploy.errors import ForbiddenError
from ..k8s.deploy.kubectl import Kubectl
from ..k8s.deploy.tree import Tree


def connect(
    bundle: Bundle, context: str | None, namespace: str | None, overlay: str | None
) -> tuple[Kubectl, Tree]:
    """kubectl for a context (None: the current one) and namespace (None: the one that the manifests
    name, else the context's), and the manifests of `bundle`, or of one of its overlays.

    Raises `UsageError` for a namespace other than the manifests' and for an unknown overlay,
    `BadInputError` where there is no kubectl, no such context or namespace, or no cluster that
    answers or admits the user, and `CheckFailedError` for manifests of another bundle.
    """
    kubectl = Kubectl.find(context, namespace)
    tree = Tree.read(kubectl, _tree(bundle, overlay))
    _require_same_bundle(bundle, tree)
    kubectl.namespace = _namespace(kubectl, tree, namespace)
    kubectl.require_supported()
    with suppress(ForbiddenError):  # many may use a namespace and not read it
        kubectl.call("get", "namespace", kubectl.namespace, "--output=name")
    return kubectl, tree


def _require_same_bundle(bundle: Bundle, tree: Tree) -> None:
    """Raise `CheckFailedError` where the manifests are for other weights than the bundle has."""
    if tree.digest not in (bundle.files_digest, bundle.inputs_digest):
        raise CheckFailedError(
            f"{tree.path}: is for the bundle {tree.digest[:10] or '(without a digest)'}, not for "
            "this one; run the same nemo-deploy build again"
        )


def _tree(bundle: Bundle, overlay: str | None) -> Path:
    if overlay is None:
        return bundle.k8s
    overlays = bundle.k8s / "overlays"
    known = sorted(path.name for path in overlays.iterdir()) if overlays.is_dir() else []
    if overlay not in known:
        raise UsageError(
            f"--overlay {overlay}: the bundle has no such overlay; it has "
            f"{', '.join(known) or 'none'}"
        )
    return overlays / overlay


def _namespace(kubectl: Kubectl, tree: Tree, wanted: str | None) -> str:
    named = tree.namespace
    if named and wanted and named != wanted:
        raise UsageError(
            f"--namespace {wanted}: the manifests name the namespace {named}; leave the option "
            f"out, or build again with --namespace {wanted}"
        )
    return named or kubectl.namespace
