"""`image`: puts a bundle into a container image."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as opt
from .terminal import console, printed


def image(
    bundle: opt.BundleArgument,
    registry: Annotated[
        str | None,
        typer.Option(
            "--registry",
            metavar="REGISTRY",
            help="Registry and folder of the image. Default: those that the manifests name.",
        ),
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="Push the image to its registry.")] = False,
    tool: Annotated[
        str | None,
        typer.Option(
            "--tool",
            metavar="TOOL",
            help="buildah, podman or docker. Default: the first that is here.",
        ),
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Put a bundle into a container image, for manifests made with --weights image.

    The image is tagged with the bundle's digest. Its layers have at most 10 GB, weights first, so
    that another engine for the same weights pushes small layers only.
    """
    from ..api.image import image as work

    result = work(bundle, registry=registry, tool=tool, push=push)
    if not printed(as_json, result.to_json()):
        from ..views.weights import packed

        packed(console(), result)
