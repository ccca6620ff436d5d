"""Access to the hub through huggingface_hub, which finds the user's token itself."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..core.errors import BadInputError
from ..model.headers import MAX_HEADER_BYTES
from .faults import explained, was_interrupted
from .meter import Tally
from .name import HubName

TIMEOUT_S: Final = 20.0
ATTEMPTS: Final = 3
"""Downloads of one file. Within each, huggingface_hub resumes several times."""

FIRST_READ: Final = 128 * 1024
"""Bytes that are requested first of a shard. They nearly always hold its whole header."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository as the hub lists it. `sha256` identifies the content of large files,
    `git_blob`, which is git's SHA-1, that of small ones."""

    name: str
    bytes: int
    sha256: str | None = None
    git_blob: str | None = None

    @property
    def digest(self) -> str | None:
        return self.sha256 or self.git_blob

    def record(self) -> dict[str, Any]:
        """Size and digest, for a record."""
        kind = "sha256" if self.sha256 else "git_blob"
        return {"bytes": self.bytes, kind: self.digest}


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository at one commit, with the files in its top folder."""

    name: HubName
    commit: str
    files: Mapping[str, HubFile]


def list_repository(name: HubName) -> Repository:
    """The commit that `name` stands for and its files. Raises `BadInputError`."""
    with explained(name):
        info = _hub().HfApi().model_info(
            name.repository, revision=name.revision, files_metadata=True, timeout=TIMEOUT_S
        )  # fmt: skip
        files = {
            row.rfilename: HubFile(
                row.rfilename, int(row.size), row.lfs.sha256 if row.lfs else None, row.blob_id
            )
            for row in info.siblings or ()
            if Path(row.rfilename).name == row.rfilename and row.size is not None
        }
        if not isinstance(info.sha, str) or len(info.sha) != 40:
            raise ValueError("no commit")
    return Repository(name, info.sha, files)


def read_header(repository: Repository, file: HubFile) -> bytes:
    """The header of a safetensors file. Only the first bytes of the file are requested."""
    first = _read_range(repository, file, 0, min(FIRST_READ, file.bytes))
    length = int.from_bytes(first[:8], "little")
    if len(first) < 8 or length > min(file.bytes - 8, MAX_HEADER_BYTES):
        raise BadInputError(
            f"{repository.name}: {file.name} is not a safetensors file (header of {length} bytes "
            f"in a file of {file.bytes})"
        )
    rest = 8 + length - len(first)
    if rest > 0:
        first += _read_range(repository, file, len(first), rest)
    return first[8 : 8 + length]


def _read_range(repository: Repository, file: HubFile, start: int, length: int) -> bytes:
    """Bytes `start` to `start + length` of a file; no more are read, whatever is sent."""
    hub = _hub()
    url = hub.hf_hub_url(repository.name.repository, file.name, revision=repository.commit)
    headers = hub.utils.build_hf_headers() | {
        "Range": f"bytes={start}-{start + length - 1}",
        "Accept-Encoding": "identity",
    }
    data = bytearray()
    with (
        explained(repository.name, file.name),
        hub.utils.get_session().stream(
            "GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True
        ) as answer,
    ):
        hub.utils.hf_raise_for_status(answer)
        if start and answer.status_code != 206:
            raise ValueError("ranges are not served")
        for chunk in answer.iter_bytes():
            data += chunk
            if len(data) >= length:
                break
    if len(data) < length:
        raise BadInputError(
            f"{repository.name}: {file.name}: the hub sent {len(data)} of {length} bytes of its "
            "header. Run the same command again"
        )
    return bytes(data[:length])


def download(
    repository: Repository,
    file: HubFile,
    folder: Path | None = None,
    on_bytes: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
) -> Path:
    """Download one file into huggingface_hub's cache, or into `folder`; gives its path.

    A file that exists already is not downloaded again. A dropped connection is resumed a bounded
    number of times. `on_bytes` takes the number of bytes that arrived (or, if negative, were lost)
    since its last call. Raises `BadInputError`; `StoppedError` once `stop` is set.
    """
    tally = Tally(on_bytes, stop)
    with explained(repository.name, file.name):
        for attempt in range(ATTEMPTS):
            try:
                path = _hub().hf_hub_download(
                    repository.name.repository,
                    file.name,
                    revision=repository.commit,
                    local_dir=folder,
                    tqdm_class=tally.bar_class(),
                )
                return Path(path)
            except Exception as error:
                tally.take_back()
                if attempt + 1 == ATTEMPTS or not was_interrupted(error):
                    raise
    raise AssertionError("the last attempt returns or raises")


def cache_folder(repository: str) -> Path:
    """Where huggingface_hub keeps that repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _hub() -> Any:
    """huggingface_hub, quiet, and with each file in the repository's own folder of the cache."""
    os.environ.setdefault("HF_HUB_DISABLE_SHARED_BLOBS", "1")
    import httpx
    import huggingface_hub

    session = huggingface_hub.get_session()
    if not isinstance(session, httpx.Client):  # since 2.0 it uses another library's
        raise BadInputError(
            f"huggingface_hub {huggingface_hub.__version__} is not supported; install a version "
            "that is with pip install 'nemotron-deploy[quantize]'"
        )
    # Its warnings would show signed URLs. What matters in them becomes a message of our own.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    from .reset import make_resumable

    make_resumable(session)
    return huggingface_hub
