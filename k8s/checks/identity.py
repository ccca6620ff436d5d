"""Rules for the digest of a bundle: all names of a bundle must be of the same one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ..images import parse_image
from ..names import APP, BUNDLE, BUNDLE_DIGEST, CHECK, FILL, FILLER, SERVER
from .findings import Problem, Rule
from .object_set import ObjectSet, workloads
from .workloads import Workload

_DIGEST: Final = r"[0-9a-f]{64}"


def digest_missing(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A new bundle would not be rolled out: nothing in the pod template would change."""
    annotation = workload.metadata["annotations"][BUNDLE_DIGEST]
    if _is_of_bundle(workload) and not re.fullmatch(_DIGEST, annotation.text()):
        yield annotation.problem("is not the digest of a bundle, 64 hexadecimal digits")


def digest_differs(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """The pod would wait for one bundle and serve another."""
    digest = workload.metadata["annotations"][BUNDLE_DIGEST].text()
    if not _is_of_bundle(workload) or not re.fullmatch(_DIGEST, digest):
        return
    for container in workload.all_containers:
        named = container.flags.get("--digest")
        if container.name in (CHECK, FILL) and named != digest:
            yield container.argument("--digest").problem(f"--digest is {named}, not {digest}")
        for path, mount in container.mounts():
            if path == BUNDLE and mount["subPath"].text() != digest:
                yield mount["subPath"].problem(f"is not the folder of the bundle, {digest}")
        tag = parse_image(container.image).tag
        if re.fullmatch(_DIGEST, tag) and tag != digest:
            yield container.field["image"].problem(f"is the image of another bundle than {digest}")
    if workload.labels.get(APP) == FILLER and not workload.owner.name.endswith(digest[:10]):
        yield workload.owner.metadata["name"].problem(
            f"must end with the first digits of the bundle's digest, {digest[:10]}"
        )


def _is_of_bundle(workload: Workload) -> bool:
    return workload.labels.get(APP) in (SERVER, FILLER)


RULES: Final[tuple[Rule[Workload], ...]] = (
    Rule("digest-missing", workloads, digest_missing, "Build the manifests again"),
    Rule("digest-differs", workloads, digest_differs, "Build the manifests again"),
)
