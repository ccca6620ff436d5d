"""The manifests of a bundle, as objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from ...core.errors import CheckFailedError
from ..names import BUNDLE_DIGEST
from .kubectl import Kubectl
from .snapshot import Object, Target, annotations_of

_FILL: Final = "fill"
"""The folder of the part that fills the claim."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A kustomize tree and the objects that it renders to. `fill` is the part that fills the claim
    and is applied first (None: there is no such part)."""

    path: Path
    objects: tuple[Object, ...]
    fill: Path | None

    @classmethod
    def read(cls, kubectl: Kubectl, path: Path) -> Tree:
        """Render the tree at `path`. Raises `BadInputError` where kubectl cannot, and
        `CheckFailedError` where there is not one Deployment."""
        text = kubectl.call("kustomize", str(path)).out
        objects = tuple(document for document in yaml.safe_load_all(text) if document)
        fill = path / _FILL
        tree = cls(path, objects, fill if (fill / "kustomization.yaml").exists() else None)
        if len(tree.of("Deployment")) != 1:
            raise CheckFailedError(
                f"{path}: has {len(tree.of('Deployment'))} Deployments, not one; build the bundle "
                "again"
            )
        return tree

    def of(self, kind: str) -> list[Object]:
        """Every object of a kind."""
        return [item for item in self.objects if item["kind"] == kind]

    @property
    def deployment(self) -> Object:
        return self.of("Deployment")[0]

    @property
    def name(self) -> str:
        return str(self.deployment["metadata"]["name"])

    @property
    def job(self) -> Object | None:
        return next(iter(self.of("Job")), None)

    def target(self, kubectl: Kubectl, bundle: Path, digest: str) -> Target:
        """What a watch of this tree's rollout looks at: the bundle in `bundle`, with `digest`."""
        job = self.job["metadata"]["name"] if self.job else None
        return Target(self.name, job, digest, str(bundle), " ".join(kubectl.words))

    @property
    def waits_for_push(self) -> bool:
        """Whether the server's pods wait for a bundle on a claim that no Job fills."""
        volumes = self.deployment["spec"]["template"]["spec"].get("volumes") or ()
        return self.job is None and any("persistentVolumeClaim" in row for row in volumes)

    @property
    def namespace(self) -> str | None:
        """The namespace that the manifests name."""
        name = self.deployment["metadata"].get("namespace")
        return str(name) if name else None

    @property
    def digest(self) -> str:
        """The digest of the bundle that the server's pods name; empty without one."""
        return annotations_of(self.deployment["spec"]["template"]).get(BUNDLE_DIGEST, "")
