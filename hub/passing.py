"""Shards that are downloaded when needed and deleted after use, a few on the disk at a time."""

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
"""Shards on the disk where download and use overlap: one in use, one being downloaded."""


class PassingShards:
    """The shards of `snapshot` that are not local, downloaded into `folder` in their order.

    A context manager; `hold` gives one of them. At most `held` are on the disk, incomplete ones
    included. Those named in `finished` are downloaded only if `hold` is entered for them. Complete
    shards that an interrupted run left in `folder` are not downloaded again.
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
        self._room.release()  # wakes a waiting download, which then stops
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self._folder / ".cache", ignore_errors=True)
        if not any(self._folder.iterdir()):
            self._folder.rmdir()

    @contextmanager
    def hold(self, path: Path) -> Iterator[Path]:
        """Wait for the shard at `path`, which is deleted when the block ends without an error.

        After a `BadInputError` it is deleted, too, because it may be the cause. After any other
        error, such as an interruption, it is kept for the next run. A shard that was local from the
        start is never deleted. The block may end in another thread. Raises `BadInputError` as
        `client.download`.
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
        """Start the download of `path` unless it was started before."""
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
        if file.sha256 is None:  # the others are checked while they are read
            Verified(self._folder).check(self._repository, path, file)
        self._require_header(path)

    def _require_header(self, path: Path) -> None:
        """Require the header from which the plan was made."""
        header = self._headers[path]
        with path.open("rb") as shard:
            same = int.from_bytes(shard.read(8), "little") == len(header)
            same = same and shard.read(len(header)) == header
        if not same:
            path.unlink()
            raise ChangedError(
                f"{self._repository.name}: the header of {path.name} differs from the one read "
                "from the hub before; the file was deleted. Run the same command again"
            )

    def _file(self, path: Path) -> HubFile:
        return self._repository.files[path.name]
