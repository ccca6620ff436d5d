"""Names of container images: `[registry[:port]/]path[:tag][@digest]`."""

from __future__ import annotations

from dataclasses import dataclass


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
