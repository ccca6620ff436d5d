"""A model repository at one commit: its configuration and headers are local, its weights may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ..core.errors import BadInputError
from ..core.files import sha256, write_atomically
from ..model.card_metadata import CARD
from ..model.checkpoint import Checkpoint, RemoteShard
from ..model.contents import ADAPTER_NAME, COMPANIONS, INDEX_NAME, PICKLE_SUFFIXES
from ..model.declared import HF_QUANT_CONFIG
from ..model.shards import find_shards
from .client import HubFile, Repository, cache_folder, download, list_repository, read_header
from .faults import UnreachableError
from .name import HubName
from .verified import Verified

CONFIGURATION: Final = ("config.json", INDEX_NAME, HF_QUANT_CONFIG)
"""What is fetched before headers are read, as far as it is there."""

MAX_SMALL_BYTES: Final = 200_000_000
"""Largest configuration or tokenizer; Nano's tokenizer.json has 17 MB."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`folder` is the snapshot in huggingface_hub's cache; `remote` are the shards it lacks."""

    repository: Repository
    folder: Path
    checkpoint: Checkpoint
    remote: tuple[RemoteShard, ...]

    @property
    def shards(self) -> tuple[HubFile, ...]:
        return tuple(self.repository.files[shard.name] for shard in self.checkpoint.shards)

    @property
    def files(self) -> tuple[HubFile, ...]:
        """All files that are downloaded, the small ones first."""
        listed = self.repository.files
        names = (*CONFIGURATION, *COMPANIONS, CARD)
        small = tuple(listed[name] for name in names if name in listed)
        return (*small, *self.shards)

    def with_shards_in(self, folder: Path) -> Snapshot:
        """The same, with shards that the cache lacks in `folder`."""
        remote = tuple(replace(shard, path=folder / shard.path.name) for shard in self.remote)
        checkpoint = Checkpoint.open(self.folder, remote, self.checkpoint.model.name)
        return replace(self, checkpoint=checkpoint, remote=remote)

    def arrived(self) -> Snapshot:
        """The same, with all shards in the cache, where their headers are read again."""
        checkpoint = Checkpoint.open(self.folder, name=self.checkpoint.model.name)
        return replace(self, checkpoint=checkpoint, remote=())

    def record(self, computed: bool = False) -> dict[str, Any]:
        """Repository, commit and each file's size and hash; with `computed`, the SHA-256 of small
        files too, where they are cached."""
        files: dict[str, Mapping[str, Any]] = {file.name: file.record() for file in self.files}
        if computed:
            for file in self.files:
                if not file.sha256 and has_whole(self.folder, file):
                    digest = sha256(self.folder / file.name)
                    files[file.name] = {"bytes": file.bytes, "sha256": digest}
        name = self.repository.name
        return {
            "repository": name.repository,
            "revision": name.revision,
            "commit": self.repository.commit,
            "files": files,
        }


def open_snapshot(name: HubName, model: str | None = None) -> Snapshot:
    """Find the commit of `name` and read configuration and headers, over the network where they
    are not cached. Offline, a complete snapshot in the cache is used.

    The model is named `model`, by default after the repository.

    Raises `BadInputError` for a repository that does not exist or holds no safetensors model, and
    `UnreachableError`.
    """
    try:
        repository = list_repository(name)
    except UnreachableError:
        cached = _cached(name)
        if cached is None:
            raise
        repository = cached
    folder = cache_folder(name.repository) / "snapshots" / repository.commit
    _require_model(repository)
    listed = repository.files
    for needed in CONFIGURATION:
        if needed in listed:
            fetch_small(repository, listed[needed])
    _remember(name, repository.commit)
    names, _ = find_shards(folder, listed)
    unlisted = [shard for shard in names if shard not in listed]
    if unlisted:
        raise BadInputError(
            f"{name}: {INDEX_NAME} names {unlisted[0]}, which is not in the repository"
        )
    remote = tuple(
        RemoteShard(folder / shard, listed[shard].bytes, read_header(repository, listed[shard]))
        for shard in names
        if not has_whole(folder, listed[shard])
    )
    called = model or name.repository.rpartition("/")[2]
    return Snapshot(repository, folder, Checkpoint.open(folder, remote, called), remote)


def has_whole(folder: Path, file: HubFile) -> bool:
    """Whether `folder` has `file` in full size. Its hash is checked before use."""
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.bytes


def fetch_small(repository: Repository, file: HubFile) -> Path:
    """Download a configuration or tokenizer file into the cache, and check it."""
    if file.bytes > MAX_SMALL_BYTES:
        raise BadInputError(
            f"{repository.name}: {file.name} is too large for such a file: {file.bytes} bytes"
        )
    path = download(repository, file)
    Verified(cache_folder(repository.name.repository)).check(repository, path, file)
    return path


def _require_model(repository: Repository) -> None:
    names = repository.files
    if any(name.endswith(".safetensors") for name in names) and CONFIGURATION[0] in names:
        return
    if ADAPTER_NAME in names:
        raise BadInputError(
            f"{repository.name}: is an adapter, not a model; merge it into its base model first "
            "(peft: `merge_and_unload()`) and pass the merged model"
        )
    pickles = sorted(name for name in names if Path(name).suffix in PICKLE_SUFFIXES)
    if pickles:
        raise BadInputError(
            f"{repository.name}: there are pickle weights only ({pickles[0]}). They can run code "
            "and are never loaded; choose a repository with safetensors files"
        )
    missing = "config.json" if CONFIGURATION[0] not in names else "*.safetensors"
    raise BadInputError(
        f"{repository.name}: this is not a model: there is no {missing} in its top folder"
    )


def _cached(name: HubName) -> Repository | None:
    """The complete model `name` in the cache, or None. The names of its blobs are the hub's
    hashes."""
    folder = cache_folder(name.repository)
    reference = folder / "refs" / name.revision
    commit = reference.read_text(encoding="utf-8") if reference.is_file() else name.revision
    snapshot = folder / "snapshots" / commit
    if len(commit) != 40 or not (snapshot / CONFIGURATION[0]).is_file():
        return None
    files = {}
    for path in snapshot.iterdir():
        if path.is_symlink() and path.is_file():
            blob = path.readlink().name
            hashes = (blob, None) if len(blob) == 64 else (None, blob)
            files[path.name] = HubFile(path.name, path.stat().st_size, *hashes)
    try:
        shards, _ = find_shards(snapshot, files)
    except BadInputError:
        return None
    return Repository(name, commit, files) if files.keys() >= set(shards) else None


def _remember(name: HubName, commit: str) -> None:
    """Record the commit of the revision in the cache, as huggingface_hub does, for offline use."""
    reference = cache_folder(name.repository) / "refs" / name.revision
    if name.revision != commit:
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(reference, commit.encode())
