"""Write one safetensors file tensor by tensor, in any order and from any thread, or take a whole
file over.

What is written is byte for byte what the safetensors library writes for the same tensors. A file
appears under its name when it is whole and safely on the disk, never before.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ..core.errors import BadInputError
from ..core.files import TEMPORARY, existing, sync
from ..core.sizes import size_text
from ..core.untrusted import open_inside
from ..model.architecture import DTYPE_BYTES

DTYPE_ORDER: Final = (
    "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16",
    "I32", "U32", "F32", "F64", "I64", "U64",
)  # fmt: skip
"""The safetensors library's order of dtypes: it lays tensors out from the last to the first, by
name within a dtype, so that all stay aligned."""


_COPIED_AT_ONCE: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to be written: name, safetensors dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return int(math.prod(self.shape) * DTYPE_BYTES[self.dtype])


def file_bytes(entries: Iterable[Entry]) -> int:
    """Size of the file that holds `entries`, header included."""
    ordered = _ordered(entries)
    return len(_header(ordered)) + sum(entry.bytes for entry in ordered)


class ShardWriter:
    """A safetensors file under construction: write every entry, then `finish`, or `abandon`.

    It grows under a temporary name in the directory `temporary` (that of `path` by default; the
    same file system). As a context manager it finishes when the block ends well and abandons
    otherwise. Raises `BadInputError` naming the file, and the tensor where there is one, when the
    disk is full or an entry is left unwritten.
    """

    def __init__(self, path: Path, entries: Iterable[Entry], temporary: Path | None = None) -> None:
        self.path = path
        self._unfinished = (temporary or path.parent) / f"{TEMPORARY}{path.name}"
        ordered = _ordered(entries)
        header = _header(ordered)
        self._entries = {entry.name: entry for entry in ordered}
        self._missing = {entry.name: entry.bytes for entry in ordered}
        self._lock = threading.Lock()
        self._offsets: dict[str, int] = {}
        self.bytes = len(header)
        for entry in ordered:
            self._offsets[entry.name] = self.bytes
            self.bytes += entry.bytes
        try:
            self._file = self._unfinished.open("wb", buffering=0)
        except OSError as error:
            raise self._failure("cannot be created", error) from error
        try:
            os.posix_fallocate(self._file.fileno(), 0, self.bytes)
            self._write_at(0, header, "its header")
        except OSError as error:
            self.abandon()
            raise BadInputError(
                f"{path}: no room for {size_text(self.bytes)} ({error.strerror}); free some "
                "space or choose another --out"
            ) from error
        except BaseException:
            self.abandon()
            raise

    def write(self, name: str, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
        """Write raw bytes of tensor `name` from its byte `offset` on; each byte once."""
        if offset + len(data) > self._entries[name].bytes:
            raise ValueError(f"{name}: {offset + len(data)} bytes are too many")
        self._write_at(self._offsets[name] + offset, data, f"tensor {name}")
        with self._lock:
            self._missing[name] -= len(data)

    def finish(self) -> None:
        """Flush the whole file to the disk, check its length, and rename it to its final name."""
        unwritten = sorted(name for name, count in self._missing.items() if count)
        if unwritten:
            self.abandon()
            raise BadInputError(f"{self.path}: tensor {unwritten[0]} was not written completely")
        try:
            os.fsync(self._file.fileno())
            size = os.fstat(self._file.fileno()).st_size
            self._file.close()
            if size != self.bytes:
                raise BadInputError(f"{self.path}: has {size} bytes, expected {self.bytes}")
            self._unfinished.rename(self.path)
            sync(self.path.parent)
        except OSError as error:
            raise self._failure("cannot be completed", error) from error

    def abandon(self) -> None:
        """Close and delete the unfinished file."""
        self._file.close()
        self._unfinished.unlink(missing_ok=True)

    def _write_at(self, position: int, data: bytes | bytearray | memoryview, what: str) -> None:
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                done += os.pwrite(self._file.fileno(), view[done:], position + done)
        except OSError as error:
            raise self._failure(f"cannot write {what}", error) from error

    def _failure(self, what: str, error: OSError) -> BadInputError:
        return BadInputError(
            f"{self.path}: {what}: {error.strerror}; free some space or choose another --out"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()


class ShardLink:
    """A source shard that is taken over as it is: a link to the same file where that is possible,
    else a copy. It is `finish` that makes it, after whoever reads the source has checked it.
    """

    def __init__(self, path: Path, source: Path, temporary: Path | None = None) -> None:
        self.path, self._source = path, source
        self._unfinished = (temporary or path.parent) / f"{TEMPORARY}{path.name}"
        self.bytes = source.stat().st_size

    def write(self, name: str, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
        """Nothing is written: the file holds these bytes."""

    def finish(self) -> None:
        """Link or copy the file, and flush it to the disk."""
        try:
            with open_inside(self._source) as source:
                if can_link(self._source, self.path.parent):
                    self._unfinished.unlink(missing_ok=True)
                    os.link(os.path.realpath(self._source), self._unfinished)
                else:
                    with self._unfinished.open("wb") as copy:
                        shutil.copyfileobj(source, copy, _COPIED_AT_ONCE)
            sync(self._unfinished)
            self._unfinished.rename(self.path)
            sync(self.path.parent)
        except OSError as error:
            self.abandon()
            raise BadInputError(
                f"{self.path}: cannot be written: {error.strerror}; free some space or choose "
                "another --out"
            ) from error

    def abandon(self) -> None:
        """Delete what there is of the copy."""
        self._unfinished.unlink(missing_ok=True)


def can_link(source: Path, folder: Path) -> bool:
    """Whether the file `source` can get a second name in `folder`, and be read there by a server
    that runs as another user. Either may still be to come."""
    if source.exists():
        status = source.stat()
        if not status.st_mode & stat.S_IROTH or status.st_uid != os.geteuid():
            return False
    return existing(source).stat().st_dev == existing(folder).stat().st_dev


def _ordered(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda e: (-DTYPE_ORDER.index(e.dtype), e.name))


def _header(entries: Sequence[Entry]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for entry in entries:
        span = [position, position + entry.bytes]
        table[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": span,
        }
        position = span[1]
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
