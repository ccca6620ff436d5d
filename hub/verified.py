"""Checks files against the hub's hashes, and remembers the result: 60 GB are hashed once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from ..core.errors import BadInputError
from ..core.files import write_atomically
from .client import HubFile, Repository
from .faults import ChangedError

NOTE_NAME: Final = ".nemo-deploy-verified.json"
_BLOCK: Final = 1 << 20


class Verified:
    """The files below one folder that match what the hub lists.

    A note in the folder records each with its size and time of change. It only saves time: a file
    without a record is hashed again.
    """

    def __init__(self, folder: Path) -> None:
        self._note = folder / NOTE_NAME

    def knows(self, path: Path, file: HubFile) -> bool:
        """Whether `path` was checked against `file` and has not changed since."""
        try:
            return self._read().get(str(file.digest)) == _stamp(path)
        except OSError:
            return False

    def check(self, repository: Repository, path: Path, file: HubFile) -> None:
        """Raise `ChangedError`, and delete `path`, where it differs from what the hub lists."""
        if file.digest is None:
            raise BadInputError(
                f"{repository.name}: the hub lists no hash for {file.name}, so it cannot be "
                "checked; is HF_ENDPOINT right?"
            )
        if self.knows(path, file):
            return
        if not _matches(path, file):
            _discard(path)
            raise ChangedError(
                f"{repository.name}: the hash of {file.name} differs from the one that the hub "
                f"lists ({file.digest[:12]}…). The file was damaged or changed, and was deleted. "
                "Run the same command again"
            )
        text = json.dumps(self._read() | {file.digest: _stamp(path)}, indent=1)
        write_atomically(self._note, text.encode())

    def _read(self) -> dict[str, list[int]]:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) else {}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _matches(path: Path, file: HubFile) -> bool:
    size = path.stat().st_size
    if size != file.bytes:
        return False
    if file.sha256:
        hasher, wanted = hashlib.sha256(), file.sha256
    else:
        hasher, wanted = hashlib.sha1(usedforsecurity=False), str(file.git_blob)
        hasher.update(b"blob %d\0" % size)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest() == wanted


def _discard(path: Path) -> None:
    """Delete a file of the cache together with the blob that it links to."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)
