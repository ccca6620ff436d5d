"""Shared memory that an engine's processes map, so that a killed one leaves nothing there."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_REGION: Final = re.compile(r" (/dev/shm/(?:psm_|sem\.mp-)\w+)$", re.MULTILINE)
"""Names that Python's `multiprocessing` gives to shared memory and semaphores."""


def mapped_regions() -> frozenset[Path]:
    """The regions that `multiprocessing` made and that this process or its descendants map."""
    regions: set[str] = set()
    for pid in _with_descendants(os.getpid()):
        with contextlib.suppress(OSError):
            regions.update(_REGION.findall(Path(f"/proc/{pid}/maps").read_text()))
    return frozenset(map(Path, regions))


def remove_regions(regions: frozenset[Path]) -> None:
    """Remove those that are left."""
    for region in regions:
        region.unlink(missing_ok=True)


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from _with_descendants(int(child))
