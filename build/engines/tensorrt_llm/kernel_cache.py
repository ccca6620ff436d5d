"""Compiled kernels kept between builds, named by the digest of all that decides what they are.

An entry is a store as an engine holds it, and its cubins are checked against their digests each
time it is used.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ....core.errors import BadInputError
from ....core.files import digest_of, new_directory
from ...kernels import store
from ...kernels.steps import Shape


def entry(
    cache: Path, sources: str, sm: int, routed: Shape, shared: Sequence[Shape], most_tokens: int
) -> Path:
    """The directory in `cache` for these kernels from sources with the digest `sources`, compiled
    with the triton that is installed and the assembler that it uses for `sm`."""
    from ...kernels import aot

    key = {
        "sources": sources,
        **aot.versions(sm),
        "sm": sm,
        "routed": asdict(routed),
        "shared": [asdict(shape) for shape in shared],
        "most_tokens": most_tokens,
    }
    return cache / f"sm_{sm}-{digest_of(key)[:32]}"


def restore(kept: Path, target: Path) -> int:
    """Copy the entry `kept` to `target` and give its number of kernels.

    Writes nothing and gives 0 where there is no such entry or any file of it is damaged.
    """
    try:
        index = store.read_index(kept)
        cubins = {record["file"]: store.read_cubin(kept, record) for record in index["kernels"]}
        text = (kept / store.INDEX).read_bytes()
    except (store.StoreError, OSError, KeyError, TypeError):
        return 0
    target.mkdir(parents=True, exist_ok=True)
    for name, cubin in cubins.items():
        (target / name).write_bytes(cubin)
    (target / store.INDEX).write_bytes(text)
    return len(cubins)


def keep(compiled: Path, kept: Path) -> None:
    """Copy the store `compiled` to the entry `kept`. Where the cache cannot be written, or another
    build is writing the same entry, nothing is kept: a build does not depend on the cache."""
    with suppress(OSError, BadInputError):
        shutil.rmtree(kept, ignore_errors=True)
        with new_directory(kept) as work:
            shutil.copytree(compiled, work, dirs_exist_ok=True)
