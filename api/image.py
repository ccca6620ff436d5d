"""`image`: puts a bundle into a container image, and pushes it to a registry."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..core.bundle import Bundle
from ..core.errors import UsageError
from ..core.result import Result
from ..core.untrusted import read_json
from ..k8s.release import LOCAL_REGISTRY
from ..k8s.weights.image_tool import ImageTool
from ..k8s.weights.layers import containerfile
from ..runtime.check_bundle import SERVED


@dataclass(frozen=True, slots=True)
class ImageResult(Result):
    """A container image that holds a bundle.

    Attributes:
        image: Its name; the tag is the bundle's `files_digest`.
        base: The image that it is built on.
        tool: What built it.
        pushed: Whether it was pushed to the registry in its name.
        named_by_manifests: Whether the manifests of the bundle run this image.
        bytes: Size of the bundle's served files.
    """

    SCHEMA: ClassVar[int] = 1

    image: str
    base: str
    tool: str
    pushed: bool
    named_by_manifests: bool
    bytes: int


def image(
    bundle: Path, *, registry: str | None = None, tool: str | None = None, push: bool = False
) -> ImageResult:
    """Build the image that holds the bundle; its layers are small enough for registries.

    Args:
        bundle: The bundle's directory.
        registry: `HOST[:PORT][/FOLDER]`; by default the one that the manifests name, or else this
            machine alone.
        tool: `buildah`, `podman` or `docker`; by default the first of them that is here.
        push: Whether to push the image to the registry.

    Raises `UsageError` for an unknown tool, or where there is no registry to push to;
    `BadInputError` for what is no bundle, or without a tool; `CheckFailedError` for an incomplete
    bundle, and where the tool fails, also because a file differs from its digest.
    """
    opened = Bundle.open(bundle)
    opened.require_complete()
    cluster = opened.record.asked.get("cluster") or {}
    named = cluster.get("registry") or LOCAL_REGISTRY
    registry = registry or named
    if push and registry == LOCAL_REGISTRY:
        raise UsageError("--push needs a registry: name it with --registry HOST[:PORT][/FOLDER]")
    made = f"{registry}/{opened.name}:{opened.files_digest}"
    base = str(read_json(opened.engine / "engine.json")["image"])
    program = ImageTool.find(tool)
    served = {name: row.bytes for name, row in opened.files.items() if name.split("/")[0] in SERVED}
    with tempfile.NamedTemporaryFile("w", prefix="Containerfile-", encoding="utf-8") as file:
        file.write(containerfile(base, served, opened.model_name, opened.files_digest))
        file.flush()
        program.build(made, opened.path, Path(file.name))
    if push:
        program.push(made)
    named_by_manifests = cluster.get("weights") == "image" and registry == named
    return ImageResult(made, base, program.name, push, named_by_manifests, sum(served.values()))
