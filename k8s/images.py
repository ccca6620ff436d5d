"""Names of container images: `[registry[:port]/]path[:tag][@digest]`."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.spec import Deployment


@dataclass(frozen=True, slots=True)
class Image:
    """A name taken apart; `tag` and `digest` are empty where the name has none."""

    name: str
    tag: str
    digest: str


def parse_image(text: str) -> Image:
    """Take an image's name apart. A colon before the last slash belongs to a registry's port."""
    rest, _, digest = text.partition("@")
    folder, slash, last = rest.rpartition("/")
    last, _, tag = last.partition(":")
    return Image(folder + slash + last, tag, digest)


def local_image(deployment: Deployment) -> str:
    """What a bundle's own image is called before it is pushed anywhere.

    Under `localhost/`, where podman builds it: a bare name would be looked for on Docker Hub,
    where anybody may own it.
    """
    base = parse_image(deployment.image)
    tag = base.tag or base.digest.rpartition(":")[2][:12]
    return f"localhost/{deployment.name}:{tag}"
