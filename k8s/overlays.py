"""How a bundle gets to its pods: one kustomize overlay of the same base for each way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .. import runtime
from ..model.spec import Deployment
from ..runtime import contract
from .images import local_image, parse_image
from .objects import labels
from .pod import BUNDLE, CONTAINER_SECURITY
from .sizing import GIB, Sizes, quantity
from .yaml_text import Object

DEFAULT: Final = "claim"
"""The overlay that `kubectl apply -k` on the top of the tree applies."""

CHECK_SCRIPT: Final = "check_bundle.py"
_SCRIPT_SOURCE: Final = Path(runtime.__file__).with_name(CHECK_SCRIPT)
_SCRIPT_FOLDER: Final = "/opt/nemo-deploy"
_CLAIM: Final = "/claim"


@dataclass(frozen=True, slots=True)
class Overlay:
    """One overlay: what it adds to the base.

    `additions` are (JSON pointer in the Deployment, value) pairs, `files` plain files by name,
    `config_map` the name of a ConfigMap that holds the check script, if there is one. `image`
    replaces the base's; `suffix` is put behind every name and behind the instance label, so that
    two overlays can run in one namespace.
    """

    name: str
    comment: str
    resources: Mapping[str, Object] = field(default_factory=dict)
    resource_comments: Mapping[str, str] = field(default_factory=dict)
    additions: tuple[tuple[str, Any], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    config_map: str | None = None
    image: str | None = None
    suffix: str = ""


def overlays(deployment: Deployment, sizes: Sizes) -> tuple[Overlay, ...]:
    """Every overlay, the default one first."""
    return (_claim(deployment, sizes), _image(deployment))


def _claim(deployment: Deployment, sizes: Sizes) -> Overlay:
    script = _SCRIPT_SOURCE.read_text(encoding="utf-8")
    # The name changes with the content: a running pod keeps the script it was started with.
    digest = hashlib.sha256(script.encode()).hexdigest()[:10]
    config_map = f"{deployment.name}-check-{digest}"
    pod = "/spec/template/spec"
    bundle_mount = {"name": "bundle", "mountPath": BUNDLE, "subPath": "bundle", "readOnly": True}
    return Overlay(
        name="claim",
        comment=_CLAIM_COMMENT.format(name=deployment.name),
        resources={"persistentvolumeclaim.yaml": _volume_claim(deployment, sizes)},
        resource_comments={"persistentvolumeclaim.yaml": _VOLUME_COMMENT},
        additions=(
            (f"{pod}/initContainers", [_check_container(deployment)]),
            (
                f"{pod}/volumes/-",
                {"name": "bundle", "persistentVolumeClaim": {"claimName": deployment.name}},
            ),
            (f"{pod}/volumes/-", {"name": "check-bundle", "configMap": {"name": config_map}}),
            (f"{pod}/containers/0/volumeMounts/-", bundle_mount),
            (f"{pod}/containers/1/volumeMounts/-", bundle_mount),
        ),
        files={CHECK_SCRIPT: script},
        config_map=config_map,
    )


_CLAIM_COMMENT: Final = """\
The bundle is stored on a PersistentVolumeClaim. The init container check-bundle blocks the pod
until the bundle is complete and every digest matches. It prints the two commands that copy a
bundle to the claim:
    kubectl logs deployment/{name} --container check-bundle --follow
Deleting this overlay deletes the claim and, with most storage classes, its data."""

_VOLUME_COMMENT: Final = """\
No storageClassName is set: the cluster's default class provides the volume. Without a default
class the claim stays pending. `kubectl get storageclass` lists the classes; to choose one, add to
your overlay:
    patches:
      - target: {kind: PersistentVolumeClaim}
        patch: '[{"op": "add", "path": "/spec/storageClassName", "value": "NAME"}]'
Every class supports ReadWriteOnce, which is enough for pods on one node. To run replicas on several
nodes, set /spec/accessModes to [ReadWriteMany], if the class supports it.
The claim has room for two bundles, because a new one is copied in before the old one is deleted."""


def _volume_claim(deployment: Deployment, sizes: Sizes) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": deployment.name, "labels": labels(deployment)},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": quantity(sizes.claim)}},
        },
    }


def _check_container(deployment: Deployment) -> dict[str, Any]:
    """The init container; it mounts the whole claim, so that a bundle is renamed in one step."""

    def from_pod(variable: contract.Variable, path: str) -> dict[str, Any]:
        return {"name": variable.name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    memory = {"memory": quantity(GIB), "ephemeral-storage": quantity(GIB)}
    return {
        "name": "check-bundle",
        "image": deployment.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", f"{_SCRIPT_FOLDER}/{CHECK_SCRIPT}", "wait", _CLAIM],
        "env": [
            from_pod(contract.POD_NAME, "metadata.name"),
            from_pod(contract.POD_NAMESPACE, "metadata.namespace"),
            {"name": contract.BUNDLE_NAME.name, "value": deployment.name},
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {"requests": {"cpu": "1", **memory}, "limits": {"cpu": "8", **memory}},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [
            {"name": "bundle", "mountPath": _CLAIM},
            {
                "name": "check-bundle",
                "mountPath": f"{_SCRIPT_FOLDER}/{CHECK_SCRIPT}",
                "subPath": CHECK_SCRIPT,
                "readOnly": True,
            },
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path in the container
        ],
    }


def _image(deployment: Deployment) -> Overlay:
    image = local_image(deployment)
    return Overlay(
        name="image",
        comment=_IMAGE_COMMENT.format(image=parse_image(image).name),
        files={"Containerfile": _containerfile(deployment, image)},
        image=image,
        suffix="-image",
    )


_IMAGE_COMMENT: Final = """\
The bundle is part of the container image: there is no claim, and replicas can run on any node.
Build the image in the bundle's directory (see the Containerfile), push it, and add to your overlay:
    images:
      - name: {image}
        newName: REGISTRY/NAME
        digest: sha256:DIGEST
Otherwise the image is found only on nodes that it was loaded into. The name suffix separates this
overlay from the other one in the same namespace."""


def _containerfile(deployment: Deployment, image: str) -> str:
    return f"""\
# The bundle {deployment.name} as a container image. Run in the bundle's directory:
#     podman build --tag {image} --file k8s/overlays/image/Containerfile .
FROM {deployment.image}
COPY . {BUNDLE}
USER 1000
# The build fails if a file is missing, damaged or not readable by the user that serves it.
RUN ["python3", "{BUNDLE}/k8s/overlays/claim/{CHECK_SCRIPT}", "verify", "{BUNDLE}"]
"""
