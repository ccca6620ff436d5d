"""The container file of an image that holds a bundle, in layers that registries accept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from ...core.bundle import CHECKPOINT
from ...core.record import RECORD_NAME

LAYER_BYTES: Final = 10_000_000_000
"""The largest layer, except for a single file that is larger: registries refuse layers above some
size (Amazon's 52 GB), and a push that breaks off repeats the layer."""

_WEIGHTS_BYTES: Final = 100_000_000
"""Files of the checkpoint from this size on share layers with each other only."""


def containerfile(
    base_image: str, files: Mapping[str, int], model_name: str, digest: str, bundle: str = "/bundle"
) -> str:
    """The text of a container file to be built in the bundle's directory.

    Weights come first, in the order of their names, and what changes more often comes last: a new
    engine for the same weights pushes small layers only.

    Args:
        base_image: The image that serves the bundle.
        files: Size in bytes of every file of the served stages, by its path in the bundle.
        model_name: The name under which the model is served.
        digest: The bundle's `files_digest`.
        bundle: Where the bundle is in the image.
    """
    copies = "\n".join(f"COPY {json.dumps(row)}" for row in _copies(files, bundle))
    script = f"{bundle}/model_repository/{model_name}/1/nemo_deploy_runtime/check_bundle.py"
    check = json.dumps(["python3", script, "verify", bundle, f"--digest={digest}"])
    return f"""\
# The bundle {digest} as a container image.
# `nemo-deploy image BUNDLE` builds it; by hand, in the bundle's directory:
#     buildah build --layers --timestamp 0 --tag IMAGE --file THIS_FILE .
FROM {base_image}
{copies}
USER 1000
# The build fails if a file is missing, damaged or not readable by the user that serves it.
RUN {check}
"""


def _copies(files: Mapping[str, int], bundle: str) -> Iterator[list[str]]:
    """The arguments of each COPY, which makes one layer: sources, and the folder they go to."""
    checkpoint = {name: size for name, size in files.items() if name.startswith(f"{CHECKPOINT}/")}
    weights = {name: size for name, size in checkpoint.items() if size >= _WEIGHTS_BYTES}
    for layer in _layers(weights):
        yield from _by_folder(layer, bundle)
    yield from _by_folder(sorted(checkpoint.keys() - weights.keys()), bundle)
    for stage in sorted({name.split("/")[0] for name in files} - {CHECKPOINT}):
        yield [f"{stage}/", f"{bundle}/{stage}/"]
    yield [RECORD_NAME, f"{bundle}/"]


def _layers(files: Mapping[str, int]) -> Iterator[list[str]]:
    """The names in order, as many at a time as one layer may hold."""
    layer: list[str] = []
    size = 0
    for name in sorted(files):
        if layer and size + files[name] > LAYER_BYTES:
            yield layer
            layer, size = [], 0
        layer.append(name)
        size += files[name]
    if layer:
        yield layer


def _by_folder(names: list[str], bundle: str) -> Iterator[list[str]]:
    """COPY puts all its files into one folder: one for each folder that the names are in."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    for folder, inside in folders.items():
        yield [*inside, f"{bundle}/{folder}/"]
