"""What kustomize makes of an overlay, for the few of its features that the tree uses.

A machine without kubectl can so check and apply the result; `validation` compares it with
kubectl's own wherever there is one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final

from ..model.spec import Deployment
from .images import parse_image
from .objects import INSTANCE, labels
from .overlays import CHECK_SCRIPT, Overlay
from .yaml_text import Object, title

KUSTOMIZATION: Final = {
    "apiVersion": "kustomize.config.k8s.io/v1beta1",
    "kind": "Kustomization",
}
"""How every `kustomization.yaml` begins."""

COMPONENT: Final = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
"""How that of a component begins."""


def kustomization(deployment: Deployment, overlay: Overlay) -> Object:
    """The overlay's `kustomization.yaml`."""
    document: Object = {
        **KUSTOMIZATION,
        "resources": ["../../base", *overlay.resources],
    }
    if overlay.additions:
        target = {"kind": "Deployment", "name": deployment.name}
        document["patches"] = [{"path": "deployment.patch.yaml", "target": target}]
    if overlay.config_map:
        options = {"disableNameSuffixHash": True, "labels": labels(deployment)}
        document["configMapGenerator"] = [
            {"name": overlay.config_map, "files": [CHECK_SCRIPT], "options": options}
        ]
    if overlay.image:
        old, new = parse_image(deployment.image), parse_image(overlay.image)
        document["images"] = [{"name": old.name, "newName": new.name, "newTag": new.tag}]
    if overlay.suffix:
        instance = {INSTANCE: deployment.name + overlay.suffix}
        document["nameSuffix"] = overlay.suffix
        document["labels"] = [
            {"pairs": instance, "includeSelectors": True, "includeTemplates": True}
        ]
    return document


def patch(overlay: Overlay) -> list[dict[str, Any]]:
    """The overlay's changes to the Deployment, as a JSON patch (RFC 6902)."""
    return [{"op": "add", "path": path, "value": value} for path, value in overlay.additions]


def render(deployment: Deployment, base: Iterable[Object], overlay: Overlay) -> list[Object]:
    """Every object of the overlay as it is applied, sorted by kind and name."""
    documents = copy.deepcopy([*base, *overlay.resources.values()])
    for document in documents:
        if document["kind"] == "Deployment":
            for path, value in overlay.additions:
                _add(document, path, copy.deepcopy(value))
            _set_image(document, overlay.image)
        _rename(document, deployment.name, overlay.suffix)
    if overlay.config_map:
        documents.append(_config_map(deployment, overlay))
    return sorted(documents, key=title)


def _add(document: Object, pointer: str, value: Any) -> None:
    """RFC 6902's `add`, for members of objects and the end of lists."""
    *parents, last = pointer.removeprefix("/").split("/")
    node: Any = document
    for step in parents:
        node = node[int(step)] if isinstance(node, list) else node[step]
    if last == "-":
        node.append(value)
    else:
        node[last] = value


def _set_image(document: Object, image: str | None) -> None:
    """The overlay's image in every container: all of the base's run the same one."""
    for container in document["spec"]["template"]["spec"]["containers"]:
        container["image"] = image or container["image"]


def _rename(document: Object, name: str, suffix: str) -> None:
    """Put the suffix behind the object's name, references to it, and the instance label."""
    document["metadata"]["name"] += suffix
    if document["kind"] == "Deployment":
        document["spec"]["template"]["spec"]["serviceAccountName"] = name + suffix
    _relabel(document, name + suffix)


def _relabel(node: Any, instance: str) -> None:
    if isinstance(node, dict):
        if INSTANCE in node:
            node[INSTANCE] = instance
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            _relabel(child, instance)


def _config_map(deployment: Deployment, overlay: Overlay) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": overlay.config_map, "labels": labels(deployment)},
        "data": {CHECK_SCRIPT: overlay.files[CHECK_SCRIPT]},
    }
