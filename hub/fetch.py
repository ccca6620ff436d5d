"""Downloads of what a snapshot lacks: the plan, and the download of all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .client import HubFile, cache_folder, download
from .snapshot import CONFIGURATION, Snapshot, fetch_small, has_whole
from .verified import Verified


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What will be downloaded of a snapshot. With `low_disk` each shard is deleted after use."""

    repository: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]
    total_bytes: int
    to: Path
    low_disk: bool

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """The document that is printed."""
        return {
            "repository": self.repository,
            "revision": self.revision,
            "commit": self.commit,
            "files": [file.name for file in self.files],
            "bytes": self.bytes,
            "bytes_here": self.total_bytes - self.bytes,
            "to": str(self.to),
            "low_disk": self.low_disk,
        }


def plan_fetch(snapshot: Snapshot, low_disk: bool = False) -> FetchPlan:
    """Decide what to download. Configuration and headers are local already."""
    name, files = snapshot.repository.name, snapshot.files
    return FetchPlan(
        name.repository,
        name.revision,
        snapshot.repository.commit,
        tuple(file for file in files if not has_whole(snapshot.folder, file)),
        sum(file.bytes for file in files),
        cache_folder(name.repository),
        low_disk,
    )


def fetch_companions(snapshot: Snapshot) -> None:
    """Download configuration, tokenizer and other small files into the cache, and check them."""
    shards = {shard.name for shard in snapshot.shards}
    for file in snapshot.files:
        if file.name not in shards and file.name not in CONFIGURATION:
            fetch_small(snapshot.repository, file)


def fetch(snapshot: Snapshot, on_progress: Callable[[int, str], None]) -> Snapshot:
    """Download all of `snapshot` into huggingface_hub's cache and check every file's hash.

    `on_progress` takes the number of bytes of shards that arrived, and the file at hand. Files that
    were cached are checked, too, unless that was done before. Raises `BadInputError`; a file with
    another hash is removed (`ChangedError`), and complete files are kept.
    """
    fetch_companions(snapshot)
    repository, done = snapshot.repository, 0
    verified = Verified(cache_folder(repository.name.repository))
    absent = {shard.path.name for shard in snapshot.remote}

    def count(change: int) -> None:
        nonlocal done
        done += change
        on_progress(done, file.name)

    for file in snapshot.shards:
        path = snapshot.folder / file.name
        if file.name in absent:
            path = download(repository, file, on_bytes=count)
        on_progress(done, f"checking {file.name}")
        verified.check(repository, path, file)
    return snapshot.arrived()
