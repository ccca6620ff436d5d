"""What `--checkpoint` names: `tiny`, a local directory, a configuration, a known model, or a
repository of the hub.

The configurations of known models are packaged, so that the network is not used before their
weights are needed. A directory with a configuration alone, or the file itself, is accepted too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import BadInputError
from ..core.extras import require
from ..core.files import sha256
from ..hub.name import from_address, parse_name
from ..hub.recorded import recorded_sha256
from ..model.architecture import Model
from ..model.catalog import SHORT_NAMES, TINY, known_model
from ..model.catalog.family import known_repository
from ..model.checkpoint import Checkpoint, read_configuration
from ..model.config import read_model
from ..model.contents import (
    CONFIGURATION,
    INDEX_NAME,
    SINGLE_NAME,
    did_you_mean,
    has_weights,
    models_below,
    require_model_directory,
)
from ..model.format_request import published_format
from ..model.quantized import StoredFormat, declared_format

if TYPE_CHECKING:
    from ..hub.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Source:
    """A resolved `--checkpoint`.

    `checkpoint` is None for a known model that was not looked up on the hub, and where there is
    only the file `configuration`. `snapshot` is the repository on the hub, if the checkpoint comes
    from there: its headers are here then, and its shards need not be. `announced` is the format
    that the configuration declares, or a known repository is published in, where the tensors were
    not looked up.
    """

    asked: str
    slug: str
    model: Model
    checkpoint: Checkpoint | None
    snapshot: Snapshot | None = None
    configuration: Path | None = None
    announced: StoredFormat | None = None

    @property
    def opened(self) -> Checkpoint:
        assert self.checkpoint is not None, "made by open_source"
        return self.checkpoint

    @property
    def stored(self) -> StoredFormat | None:
        """The format that the weights have already; None where they can be quantized."""
        return self.checkpoint.quantization if self.checkpoint else self.announced

    @property
    def embedded(self) -> bool:
        """Whether it is the embedded model, which every installation has."""
        return self.checkpoint is not None and self.checkpoint.path.samefile(TINY)

    @property
    def place(self) -> str:
        """Where it is, as shown to people."""
        if self.snapshot is not None:
            return f"{self.snapshot.repository.name.repository}@{self.snapshot.repository.commit}"
        if self.configuration is not None:
            return f"configuration only: {self.configuration}"
        return str(self.checkpoint.path) if self.checkpoint else "packaged configuration"

    @property
    def shard_sha256(self) -> Mapping[str, str]:
        """SHA-256 by shard name, for shards whose hash the hub lists or a download recorded."""
        if self.snapshot is not None:
            return {file.name: file.sha256 for file in self.snapshot.shards if file.sha256}
        return recorded_sha256(self.opened.shards)

    def fingerprint(self) -> dict[str, Any]:
        """What identifies this source.

        Of a repository: its commit and the hashes that the hub lists. Of a local directory: the
        contents of its files, and of large shards header, size and time of change, because hashing
        63 GB would delay every run.
        """
        if self.snapshot is None:
            return _local_fingerprint(self.opened)
        record = self.snapshot.record()
        return {key: record[key] for key in ("repository", "commit", "files")}


def resolve(name: str) -> Source:
    """Resolve `name`: a directory or a configuration file first, then `tiny`, then a known hub id
    or short name, and then any other `owner/name[@revision]`, whose configuration and headers are
    downloaded. An address of the hub is as good as the name of its repository.

    Raises `BadInputError` for anything else, and where the hub cannot be used.
    """
    if name == "tiny" and not Path(name).is_dir():
        return _local(name, TINY)
    if Path(name).is_dir():
        return _local(name, Path(name))
    if name.endswith(".json") and Path(name).exists():
        return _configured(name, Path(name))
    if Path(name).is_file():
        raise BadInputError(
            f"{name}: no such directory or configuration; it is a file, pass the directory it is in"
        )
    name = from_address(name)
    model, known = known_model(name), known_repository(name)
    if model is None or known is None:
        return _at_hub(name)
    published = None
    if known.published_as != "bf16":
        published = published_format(known.published_as, model)
    return Source(name, slug(model.name), model, None, announced=published)


def open_source(name: str) -> Source:
    """As `resolve`, with the checkpoint opened; a known model is looked up on the hub, too.

    Raises `BadInputError` where there is only a configuration.
    """
    return opened(resolve(name))


def opened(source: Source) -> Source:
    """`source` with its checkpoint opened, on the hub where it is not local. Raises `BadInputError`
    where there is only a configuration, `RefusedError` for a model that is planned only."""
    if source.model.planned_only is not None:
        raise source.model.planned_only.refusal(source.asked)
    if source.configuration is not None:
        raise BadInputError(_without_weights(source.configuration))
    return source if source.checkpoint is not None else _at_hub(source.asked)


def _local(asked: str, path: Path) -> Source:
    path = path.resolve()
    if not has_weights(path):
        require_model_directory(path)
        return _configured(asked, path / CONFIGURATION)
    checkpoint = Checkpoint.open(path)
    return Source(asked, slug(path.name), checkpoint.model, checkpoint)


def _configured(asked: str, path: Path) -> Source:
    """The source that the configuration file `path` describes, named after its directory, or after
    the file where that is not just `config.json`."""
    path = path.parent.resolve() / path.name  # links are followed when it is opened
    own = re.sub(r"[._-]?config$", "", path.stem, flags=re.IGNORECASE)
    called = slug(own or path.parent.name)
    config = read_configuration(path)
    model = read_model(config, called)
    stored = declared_format(path.parent, config, model) if model.planned_only is None else None
    return Source(asked, called, model, None, configuration=path, announced=stored)


def _without_weights(path: Path) -> str:
    if has_weights(path.parent):
        return (
            f"{path}: this is a configuration; pass {path.parent}, which holds the weights, instead"
        )
    if below := models_below(path.parent):
        return f"{path}: there are no weights beside this configuration; {did_you_mean(below)}"
    return (
        f"{path}: there are no weights beside this configuration, no {SINGLE_NAME} and no "
        f"{INDEX_NAME} with its shards. A configuration is enough for inspect and plan; other "
        "commands need a directory with the weights, or a repository on the hub"
    )


def _at_hub(asked: str) -> Source:
    known = known_repository(asked)
    name = parse_name(known.hub if known else asked)
    if name is None:
        raise BadInputError(
            f"{asked}: no such directory or configuration. It is not a known model either (known "
            f"are tiny, {', '.join(SHORT_NAMES)}), and not the owner/name[@revision] of a "
            "repository on the hub"
        )
    require("huggingface_hub", purpose=f"{asked}: reaching the hub")
    from ..hub.snapshot import open_snapshot

    called = slug(name.repository.rpartition("/")[2])
    snapshot = open_snapshot(name, called)
    return Source(asked, called, snapshot.checkpoint.model, snapshot.checkpoint, snapshot)


def _local_fingerprint(checkpoint: Checkpoint) -> dict[str, Any]:
    shards = [[shard.name, *_shard_fingerprint(shard)] for shard in checkpoint.shards]
    others = [
        [path.name, sha256(path)]
        for path in sorted(checkpoint.path.iterdir())
        if path.is_file() and path.suffix in (".json", ".jinja", ".model", ".txt")
    ]
    return {"shards": shards, "files": others}


def _shard_fingerprint(shard: Path) -> list[Any]:
    status = shard.stat()
    if status.st_size <= _HASHED_WHOLE:
        return [sha256(shard)]
    with shard.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = hashlib.sha256(file.read(length)).hexdigest()
    return [status.st_size, status.st_mtime_ns, header]


_HASHED_WHOLE: Final = 1 << 26
"""Bytes of the largest shard that is identified by its content, the same on every machine. The
embedded checkpoint is far below."""


def slug(name: str) -> str:
    """`name` as a DNS label without the vendor's name and the precision, at most 40 characters.
    Bundles, Triton models and Kubernetes objects are named after it."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).removeprefix("nvidia-").strip("-")
    text = re.sub(r"-(bf16|fp8|nvfp4|int8|int4)$", "", text)[:40].strip("-")
    return text if text[:1].isalpha() else f"model-{text}".strip("-")
