"""The objects of one variant of the tree, while features compose them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .names import TRITON
from .release import Release
from .sizing import Sizes
from .yaml_text import Object


@dataclass(slots=True)
class Manifests:
    """Objects by the name of their file, each with the comment at its top.

    `fill` lists the files that fill the claim, which can be applied ahead of the others.
    """

    release: Release
    sizes: Sizes
    objects: dict[str, Object] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    fill: list[str] = field(default_factory=list)

    def add(self, file: str, document: Object, comment: str) -> None:
        """Add an object; every file holds one."""
        assert file not in self.objects, file
        self.objects[file] = document
        self.comments[file] = comment

    def remark(self, file: str, text: str) -> None:
        """Add a paragraph to the comment of an object."""
        self.comments[file] += f"\n{text}"

    @property
    def deployment(self) -> Object:
        return self.objects[DEPLOYMENT]

    @property
    def pod(self) -> dict[str, Any]:
        """The `spec` of the serving pods."""
        spec: dict[str, Any] = self.deployment["spec"]["template"]["spec"]
        return spec

    @property
    def containers(self) -> list[dict[str, Any]]:
        """The serving containers."""
        found: list[dict[str, Any]] = self.pod["containers"]
        return found

    @property
    def triton(self) -> dict[str, Any]:
        """The container of the server."""
        return next(c for c in self.containers if c["name"] == TRITON)


Feature = Callable[[Manifests], None]
"""Adds objects, or changes those of features before it."""

DEPLOYMENT = "deployment.yaml"
SERVICE = "service.yaml"
NETWORK_POLICY = "networkpolicy.yaml"
CLAIM_FILE = "persistentvolumeclaim.yaml"
