"""A few threads with a bound on the bytes between them.

torch, reads and writes release the interpreter's lock, so that one thread reads while others encode
and write. What bounds memory is bytes, not items: tensors differ by a factor of a million.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

import torch

from .buffers import Buffers

DEFAULT_BYTES: Final = 64 << 20
"""Source bytes that may be read and not yet written."""

MAX_OPEN_SHARDS: Final = 2
"""Shards in progress at once: while one is flushed to the disk, the next is encoded."""


class Pipeline:
    """Workers for one producer, which borrows a buffer, fills it, and submits work on it.

    The first error of any worker ends the whole: it is raised from the producer's next call, or
    from the end of the `with` block. Use as a context manager; afterwards no worker runs.
    """

    def __init__(self, limit: int = DEFAULT_BYTES, workers: int | None = None) -> None:
        # One more than cores: writing waits for the disk at times.
        self._pool = ThreadPoolExecutor(workers or _cores() + 1, "nemo-deploy")
        self._limit = limit
        self._buffers = Buffers(limit)
        self._used = self._shards = 0
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def begin_shard(self) -> None:
        """Wait until another shard may start; `end_shard` lets the next one start."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._shards < MAX_OPEN_SHARDS)
            self._raise()
            self._shards += 1

    def end_shard(self) -> None:
        """End a shard that `begin_shard` started."""
        with self._changed:
            self._shards -= 1
            self._changed.notify_all()

    def borrow(self, size: int) -> bytearray:
        """A buffer with any content, once `size` more bytes may be held; one piece alone may exceed
        the limit."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or not self._used or self._used + size <= self._limit
            )
            self._raise()
            self._used += size
        return self._buffers.take(size)

    def submit(self, work: Callable[[], None], borrowed: bytearray | None = None) -> None:
        """Let a worker do `work`; when it ends, nothing may refer to the `borrowed` buffer."""
        self._pool.submit(self._run, work, borrowed)

    def _run(self, work: Callable[[], None], borrowed: bytearray | None) -> None:
        try:
            if self._error is None:
                work()
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
        finally:
            if borrowed is not None:
                self._buffers.give(borrowed)
                with self._changed:
                    self._used -= len(borrowed)
                    self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        # Whole tensors go side by side; threads inside each would only wait for one another.
        self._torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            with self._changed:
                self._error = self._error or error
        self._pool.shutdown(wait=True)
        torch.set_num_threads(self._torch_threads)
        if kind is None:
            self._raise()


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))
