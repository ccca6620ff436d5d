"""Write the kustomize tree of one bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..core.errors import BadInputError
from ..model.spec import Deployment
from .component import Component
from .images import parse_image
from .monitoring import monitoring
from .objects import COMMENTS, base
from .overlays import DEFAULT, Overlay, overlays
from .rendering import COMPONENT, KUSTOMIZATION, kustomization, patch, render
from .sidecar import required_keys
from .sizing import sizes
from .tracing import tracing
from .yaml_text import Object, dump

_LONGEST_NAME: Final = 63 - len("-image")
"""A Service's name and a label's value have at most 63 characters, with the overlay's suffix."""


def emit(dest: Path, deployment: Deployment) -> None:
    """Write the tree into `dest`; see `nemotron_deploy.k8s.emit`."""
    _require_deployable(deployment)
    needs = sizes(deployment)
    objects = base(deployment, needs)
    made = overlays(deployment, needs)
    files = _top(deployment, made) | _base(deployment, objects)
    for overlay in made:
        files |= _overlay(deployment, overlay)
        rendered = render(deployment, objects.values(), overlay)
        note = f"What `kubectl kustomize overlays/{overlay.name}` prints."
        files[f"rendered/{overlay.name}.yaml"] = dump(*rendered, comment=_head(deployment, note))
    for component in (monitoring(deployment), *tracing(), required_keys(deployment)):
        files |= _component(deployment, component)
    for name, text in files.items():
        path = dest / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _require_deployable(deployment: Deployment) -> None:
    name = deployment.name
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > _LONGEST_NAME:
        raise BadInputError(
            f"the bundle's name {name!r} cannot name a Kubernetes Service: it must consist of "
            f"lower-case letters, digits and '-', start with a letter, and have at most "
            f"{_LONGEST_NAME} characters. Choose another directory name with --out"
        )
    image = parse_image(deployment.image)
    if not image.digest and image.tag in ("", "latest"):
        raise BadInputError(
            f"the image {deployment.image!r} may change under a running deployment: name it by a "
            "version tag or a digest"
        )


def _head(deployment: Deployment, note: str) -> str:
    return (
        f"Written by nemo-deploy for the bundle {deployment.name}.\n"
        "To change something, write an overlay of your own on top: the next build writes this\n"
        f"file again.\n\n{note}"
    )


def _top(deployment: Deployment, made: tuple[Overlay, ...]) -> dict[str, str]:
    others = "\n".join(
        f"    kubectl apply -k overlays/{overlay.name}"
        for overlay in made
        if overlay.name != DEFAULT
    )
    note = f"This directory is the overlay {DEFAULT}: kubectl apply -k .\nInstead of it:\n{others}"
    document = {**KUSTOMIZATION, "resources": [f"overlays/{DEFAULT}"]}
    return {"kustomization.yaml": dump(document, comment=_head(deployment, note))}


def _base(deployment: Deployment, objects: Mapping[str, Object]) -> dict[str, str]:
    note = "What every overlay has. Not to be applied by itself: it has no bundle."
    index = dump({**KUSTOMIZATION, "resources": [*objects]}, comment=_head(deployment, note))
    files = {"base/kustomization.yaml": index}
    for name, document in objects.items():
        files[f"base/{name}"] = dump(document, comment=_head(deployment, COMMENTS[name]))
    return files


def _overlay(deployment: Deployment, overlay: Overlay) -> dict[str, str]:
    index = kustomization(deployment, overlay)
    files = {"kustomization.yaml": dump(index, comment=_head(deployment, overlay.comment))}
    for name, document in overlay.resources.items():
        note = overlay.resource_comments[name]
        files[name] = dump(document, comment=_head(deployment, note))
    if overlay.additions:
        note = "Where the bundle comes from."
        files["deployment.patch.yaml"] = dump(patch(overlay), comment=_head(deployment, note))
    return {
        f"overlays/{overlay.name}/{name}": text
        for name, text in (files | {**overlay.files}).items()
    }


def _component(deployment: Deployment, component: Component) -> dict[str, str]:
    index = {**COMPONENT, **component.kustomization}
    files = {"kustomization.yaml": dump(index, comment=_head(deployment, component.comment))}
    note = f"A part of the component {component.name}."
    for name, document in component.objects.items():
        files[name] = dump(document, comment=_head(deployment, note))
    return {
        f"components/{component.name}/{name}": text
        for name, text in (files | {**component.files}).items()
    }
