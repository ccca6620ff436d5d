"""The sources that decide what a compiled kernel is and how it is launched, as one digest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

FORMAT: Final = 1
"""Of a store of compiled kernels."""

_SOURCES: Final = ("configs.py", "kernel.py", "layout.py", "packing.py", "steps.py")


def source_digest() -> str:
    """SHA-256 over them."""
    digest = hashlib.sha256(f"format {FORMAT}\n".encode())
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()
