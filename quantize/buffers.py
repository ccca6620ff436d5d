"""Read buffers that are reused, because touching new memory costs as much as reading into it."""

from __future__ import annotations

import threading


class Buffers:
    """Lends buffers of exact sizes, `limit` bytes of them at most, counting those that are free.

    One buffer alone may exceed the limit. Most tensors of an expert model have one of two sizes, so
    that nearly every request finds a buffer.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free: list[bytearray] = []
        self._bytes = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bytearray:
        """A buffer of `size` bytes with any content."""
        with self._lock:
            for index, buffer in enumerate(self._free):
                if len(buffer) == size:
                    return self._free.pop(index)
            while self._free and self._bytes + size > self._limit:
                self._bytes -= len(self._free.pop(0))
            self._bytes += size
        return bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """Return a buffer that nothing refers to any more."""
        with self._lock:
            self._free.append(buffer)
