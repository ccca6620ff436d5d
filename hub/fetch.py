"""Getting what a snapshot lacks: what that takes, and doing it at once."""

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
    """What is to be fetched of a snapshot. `low_disk` lets go of each shard once it was used."""

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
        """As it is shown and printed."""
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
    """Decide what to fetch. Configuration and headers are here already."""
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
    """Fetch configuration, tokenizer and the like into the cache, and check them."""
    shards = {shard.name for shard in snapshot.shards}
    for file in snapshot.files:
        if file.name not in shards and file.name not in CONFIGURATION:
            fetch_small(snapshot.repository, file)


def fetch(snapshot: Snapshot, on_progress: Callable[[int, str], None]) -> Snapshot:
    """Fetch all of `snapshot` into huggingface_hub's cache and check every file's hash.

    `on_progress` is told how many bytes of the shards arrived and were checked, and which file is
    at hand. Files that were here are checked, too, unless that was done before. Raises
    `BadInputError`; a file with another hash is removed (`ChangedError`), and those that arrived
    whole stay.
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
