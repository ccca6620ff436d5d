"""Shards that come when they are needed and go once they were used, a few at a time on the disk."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from ..core.errors import BadInputError
from .client import HubFile, download
from .faults import ChangedError
from .meter import StoppedError
from .snapshot import Snapshot
from .verified import Verified

OVERLAPPED: Final = 2
"""Shards on the disk where download and use overlap: one that is used, one that arrives."""


class PassingShards:
    """The shards of `snapshot` that are still at the hub, passing through `folder` in their order.

    A context manager; `hold` brings one of them. At most `held` are on the disk, also half fetched
    ones. Those named in `finished` are not fetched unless they are held all the same. Whole shards
    that an interrupted run left in `folder` are not fetched again.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        folder: Path,
        held: int = OVERLAPPED,
        finished: Collection[str] = (),
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        self._repository = snapshot.repository
        self.snapshot = snapshot.with_shards_in(folder)
        self._folder, self._on_bytes = folder, on_bytes
        self._headers = {shard.path: shard.header for shard in self.snapshot.remote}
        self._wanted = [path for path in self._headers if path.name not in finished]
        self._room = threading.Semaphore(held)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, "nemo-deploy-fetch")
        self._coming: dict[Path, Future[None]] = {}

    @property
    def bytes_to_fetch(self) -> int:
        return sum(
            self._file(path).bytes
            for path in self._wanted
            if not path.is_file() or path.stat().st_size != self._file(path).bytes
        )

    def __enter__(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        names = {path.name for path in self._wanted}
        for left in self._folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name not in names:
                left.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._room.release()  # the one that may be waiting for room sees that it is to stop
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self._folder / ".cache", ignore_errors=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    @contextmanager
    def hold(self, path: Path) -> Iterator[Path]:
        """Wait for the shard at `path`, which is removed when the block ends well.

        Where it ends with bad input the shard is removed, too: it may be what is bad. Otherwise
        (an interruption) it stays for the next run. A shard that was here from the start is left
        alone. May be left in another thread. Raises `BadInputError` as `client.download`.
        """
        if path not in self._headers:
            yield path
            return
        wanted = path in self._wanted
        if wanted:
            self._expect(path)
            self._coming[path].result()
            for later in self._wanted[self._wanted.index(path) + 1 :][:1]:
                self._expect(later)
        else:
            self._bring(path)
        try:
            yield path
        except BadInputError:
            path.unlink(missing_ok=True)
            raise
        path.unlink()
        if wanted:
            self._room.release()

    def _expect(self, path: Path) -> None:
        """See to it that `path` is coming."""
        with self._lock:
            if path not in self._coming:
                self._coming[path] = self._pool.submit(self._bring_in_turn, path)

    def _bring_in_turn(self, path: Path) -> None:
        self._room.acquire()
        if self._stop.is_set():
            raise StoppedError
        self._bring(path)

    def _bring(self, path: Path) -> None:
        file = self._file(path)
        if not path.is_file() or path.stat().st_size != file.bytes:
            path.unlink(missing_ok=True)
            download(self._repository, file, self._folder, self._on_bytes, self._stop)
        if file.sha256 is None:  # others are checked while they are read
            Verified(self._folder).check(self._repository, path, file)
        self._require_header(path)

    def _require_header(self, path: Path) -> None:
        """The header that was read at first must be the file's own: the plan was made from it."""
        header = self._headers[path]
        with path.open("rb") as shard:
            same = int.from_bytes(shard.read(8), "little") == len(header)
            same = same and shard.read(len(header)) == header
        if not same:
            path.unlink()
            raise ChangedError(
                f"{self._repository.name}: {path.name} has another header than the one read from "
                "the hub at first; it was removed. Run the same command again"
            )

    def _file(self, path: Path) -> HubFile:
        return self._repository.files[path.name]
