"""Write one safetensors file tensor by tensor, in any order, with memory for one tensor at a time.

The file is byte for byte what the safetensors library writes for the same tensors.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ..errors import BadInputError
from ..spec import DTYPE_BYTES

DTYPE_ORDER: Final = (
    "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16",
    "I32", "U32", "F32", "F64", "I64", "U64",
)  # fmt: skip
"""The safetensors library's order of dtypes: it lays tensors out from the last to the first, by
name within a dtype, so that all stay aligned."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to be written: name, safetensors dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return int(math.prod(self.shape) * DTYPE_BYTES[self.dtype])


class ShardWriter:
    """A safetensors file under construction. Use as a context manager; `write` every entry once.

    Raises `BadInputError` naming the file when the disk is full or an entry is left unwritten.
    """

    def __init__(self, path: Path, entries: Iterable[Entry]) -> None:
        self.path = path
        ordered = sorted(entries, key=lambda e: (-DTYPE_ORDER.index(e.dtype), e.name))
        self._entries = {entry.name: entry for entry in ordered}
        self._pending = set(self._entries)
        header = self._header(ordered)
        self._offsets: dict[str, int] = {}
        position = len(header)
        for entry in ordered:
            self._offsets[entry.name] = position
            position += entry.bytes
        self._file = path.open("xb", buffering=0)
        try:
            os.posix_fallocate(self._file.fileno(), 0, position)
        except OSError as error:
            self._file.close()
            raise BadInputError(
                f"{path}: no room for {position / 1e9:.2f} GB here ({error.strerror}); free some "
                "space or choose another --out"
            ) from error
        self._write_at(0, header)

    @staticmethod
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

    def write(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Write the raw bytes of tensor `name`."""
        entry = self._entries[name]
        if len(data) != entry.bytes:
            raise ValueError(f"{name}: {len(data)} bytes given, {entry.bytes} expected")
        self._write_at(self._offsets[name], data)
        self._pending.remove(name)

    def _write_at(self, position: int, data: bytes | bytearray | memoryview) -> None:
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                done += os.pwrite(self._file.fileno(), view[done:], position + done)
        except OSError as error:
            raise BadInputError(f"{self.path}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._file.close()
        if kind is None and self._pending:
            raise BadInputError(f"{self.path}: tensor {min(self._pending)} was never written")
