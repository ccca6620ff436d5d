"""Write the kustomize tree of one bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ..core.errors import BadInputError
from .components.api_keys import required_keys
from .components.component import Component
from .components.mesh import mesh
from .components.monitoring import monitoring
from .components.tracing import tracing
from .composition import for_development, production
from .images import parse_image
from .manifests import Manifests
from .release import Release
from .yaml_text import Object, dump, title

KUSTOMIZATION: Final = {
    "apiVersion": "kustomize.config.k8s.io/v1beta1",
    "kind": "Kustomization",
}
"""How every `kustomization.yaml` begins."""

COMPONENT: Final = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
"""How that of a component begins."""

DEVELOPMENT: Final = "overlays/dev"

_LONGEST_NAME: Final = 63 - len("-dev")
"""A Service's name and a label's value have at most 63 characters, with every suffix."""


def emit(dest: Path, release: Release) -> None:
    """Write the tree into `dest`; see `nemotron_deploy.k8s.emit`."""
    _require_deployable(release)
    top, dev = production(release), for_development(release)
    files = _variant("", top, _TOP_NOTE) | _variant(f"{DEVELOPMENT}/", dev, _DEV_NOTE)
    for name, manifests, folder in (("default", top, "."), ("dev", dev, DEVELOPMENT)):
        note = f"What `kubectl kustomize {folder}` prints."
        documents = sorted(_in_namespace(manifests), key=title)
        files[f"rendered/{name}.yaml"] = dump(*documents, comment=_head(release, note))
    served = release.deployment
    for component in (monitoring(served), *tracing(), required_keys(served), mesh(release.name)):
        files |= _component(release, component)
    for name, text in files.items():
        path = dest / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _require_deployable(release: Release) -> None:
    name = release.name
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > _LONGEST_NAME:
        raise BadInputError(
            f"the bundle's name {name!r} cannot name a Kubernetes Service: it must consist of "
            f"lower-case letters, digits and '-', start with a letter, and have at most "
            f"{_LONGEST_NAME} characters. Choose another directory name with --out"
        )
    image = parse_image(release.deployment.image)
    if not image.digest and image.tag in ("", "latest"):
        raise BadInputError(
            f"the image {release.deployment.image!r} may change under a running deployment: name "
            "it by a version tag or a digest"
        )


def _head(release: Release, note: str) -> str:
    return (
        f"Written by nemo-deploy for the bundle {release.name}.\n"
        "To change something, write an overlay of your own on top: the next build writes this\n"
        f"file again.\n\n{note}"
    )


_TOP_NOTE: Final = """\
Apply it with kubectl apply -k, or with nemo-deploy deploy."""

_DEV_NOTE: Final = """\
The same bundle with the reference executor, on any node, without a GPU. For trying out, not for
speed."""

_FILL_NOTE: Final = """\
What fills the claim; a part of the whole tree. Applied first, it makes a bundle ready while an
older one is served and no GPU is held."""


def _variant(folder: str, manifests: Manifests, note: str) -> dict[str, str]:
    """The files of a variant. What fills the claim is in a folder of its own, which can be applied
    by itself."""
    filling = manifests.fill
    others = [name for name in manifests.objects if name not in filling]
    files = {"kustomization.yaml": _index(manifests, [*["fill"] * bool(filling), *others], note)}
    if filling:
        files["fill/kustomization.yaml"] = _index(manifests, filling, _FILL_NOTE)
    for name, document in manifests.objects.items():
        path = f"fill/{name}" if name in filling else name
        files[path] = dump(document, comment=_head(manifests.release, manifests.comments[name]))
    return {folder + name: text for name, text in files.items()}


def _index(manifests: Manifests, names: list[str], note: str) -> str:
    document: Object = {**KUSTOMIZATION}
    if manifests.release.options.namespace:
        document["namespace"] = manifests.release.options.namespace
    document["resources"] = names
    return dump(document, comment=_head(manifests.release, note))


def _in_namespace(manifests: Manifests) -> list[Object]:
    """The objects as kustomize renders them."""
    namespace = manifests.release.options.namespace
    if namespace is None:
        return list(manifests.objects.values())
    return [
        {**document, "metadata": {**document["metadata"], "namespace": namespace}}
        for document in manifests.objects.values()
    ]


def _component(release: Release, component: Component) -> dict[str, str]:
    index = {**COMPONENT, **component.kustomization}
    files = {"kustomization.yaml": dump(index, comment=_head(release, component.comment))}
    note = f"A part of the component {component.name}."
    for name, document in component.objects.items():
        files[name] = dump(document, comment=_head(release, note))
    return {
        f"components/{component.name}/{name}": text
        for name, text in (files | {**component.files}).items()
    }
