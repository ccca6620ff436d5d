"""Shared memory of an engine's processes, of which none is left when they are killed."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_REGION: Final = re.compile(r" (/dev/shm/(?:psm_|sem\.mp-)\w+)$", re.MULTILINE)
"""Names that Python's `multiprocessing` gives to shared memory and semaphores."""


def remove_names() -> None:
    """Remove the names of shared memory that this process and its descendants have mapped.

    Once all have, nobody needs the names, and the kernel frees the memory with the last process. A
    process that removes a name itself when it ends finds none, and says so in its log.
    """
    for pid in _with_descendants(os.getpid()):
        with contextlib.suppress(OSError):
            for region in _REGION.findall(Path(f"/proc/{pid}/maps").read_text()):
                Path(region).unlink(missing_ok=True)


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from _with_descendants(int(child))
