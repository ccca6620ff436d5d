"""Sizes of files and memory, for people."""

from __future__ import annotations


def size_text(count: float, digits: int = 2) -> str:
    """`count` bytes in GB, or in MB below 50 MB, with so many `digits` after the point."""
    value, unit = (count / 1e6, "MB") if abs(count) < 50e6 else (count / 1e9, "GB")
    return f"{value:.{digits}f} {unit}"
