"""Hashes that huggingface_hub recorded beside the files of a local directory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_NOTE_BYTES: Final = 4096


def recorded_sha256(shards: Sequence[Path]) -> Mapping[str, str]:
    """SHA-256 by file name, for those `shards` whose download recorded it.

    A snapshot in the hub's cache consists of links to files named by their hash; `hf download
    --local-dir` writes `.cache/huggingface/download/<file>.metadata`: commit, ETag (of large files
    their SHA-256) and time, a line each (huggingface_hub 1.33, _local_folder.py).
    """
    recorded = {}
    for shard in shards:
        digest = shard.readlink().name if shard.is_symlink() else _noted(shard)
        if _SHA256.fullmatch(digest):
            recorded[shard.name] = digest
    return recorded


def _noted(shard: Path) -> str:
    note = shard.parent / ".cache" / "huggingface" / "download" / f"{shard.name}.metadata"
    try:
        with note.open(encoding="ascii") as file:
            lines = file.read(_MAX_NOTE_BYTES).splitlines()
    except (OSError, ValueError):
        return ""
    return lines[1].strip() if len(lines) > 1 else ""
