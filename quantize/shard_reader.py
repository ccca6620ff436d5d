"""Read one source shard from front to back, tensor by tensor, and check its digest on the way."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final, Self

from ..core.errors import BadInputError
from ..core.untrusted import open_inside
from ..model.headers import TensorInfo

_HASHED_AT_ONCE: Final = 1 << 24


class ShardReader:
    """An open shard. With `sha256`, every byte must be read in order and `finish` be called.

    Raises `BadInputError` naming the file, and the tensor, for a shard that is missing, too short
    or unreadable, or whose SHA-256 is another one.
    """

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        self.path = path
        self._wanted = sha256
        self._digest = hashlib.sha256() if sha256 else None
        self._position = 0
        try:
            self._file = open_inside(path)
        except FileNotFoundError:
            raise BadInputError(f"{path}: this shard is missing; fetch it again") from None
        except OSError as error:
            raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
        self._descriptor = self._file.fileno()
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fileno(self) -> int:
        """The open file's descriptor."""
        return self._descriptor

    def read(self, info: TensorInfo, offset: int, data: bytearray) -> None:
        """Fill `data` with the bytes of the tensor `info` from its byte `offset` on."""
        if self._digest:
            self._hash_up_to(info.start + offset)
        self._fill(memoryview(data), info.start + offset, f"tensor {info.name}")
        if self._digest:
            self._digest.update(data)
            self._position += len(data)

    def finish(self) -> None:
        """Check the SHA-256 of the whole shard, if one was given."""
        if self._digest is None:
            return
        self._hash_up_to(os.fstat(self._descriptor).st_size)
        if self._digest.hexdigest() != self._wanted:
            raise BadInputError(
                f"{self.path}: its SHA-256 is {self._digest.hexdigest()}, expected {self._wanted}: "
                "the file is damaged; fetch it again"
            )

    def _hash_up_to(self, end: int) -> None:
        """Hash the bytes before `end` that belong to no tensor: the header."""
        assert self._digest is not None
        while self._position < end:
            data = bytearray(min(_HASHED_AT_ONCE, end - self._position))
            self._fill(memoryview(data), self._position, "its header")
            self._digest.update(data)
            self._position += len(data)

    def _fill(self, view: memoryview, position: int, what: str) -> None:
        done = 0
        try:
            while done < len(view):
                count = os.preadv(self._descriptor, [view[done:]], position + done)
                if not count:
                    raise BadInputError(
                        f"{self.path}: ends in the middle of {what}; fetch it again"
                    )
                done += count
        except OSError as error:
            raise BadInputError(f"{self.path}: cannot read {what}: {error.strerror}") from error
