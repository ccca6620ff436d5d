"""Record of finished output shards, from which a run resumes after one that was killed."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..core.files import digest_of, write_atomically

JOURNAL: Final = "shards.json"


class Journal:
    """Finished shards of one job in the directory `out`, recorded in the directory `state`.

    A shard is recorded after it is safely on the disk, together with what rounding its tensors
    cost. A record of another job counts for nothing. Without `state` nothing is kept, and nothing
    is found.
    """

    def __init__(self, out: Path, state: Path | None, job: object) -> None:
        self._path = state / JOURNAL if state else None
        self._job = digest_of(job)
        self._lock = threading.Lock()
        self._finished = {
            name: row
            for name, row in self._read().items()
            if (out / name).is_file() and (out / name).stat().st_size == row["bytes"]
        }

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._path is None or not self._path.is_file():
            return {}
        record = json.loads(self._path.read_text(encoding="utf-8"))
        return dict(record["shards"]) if record["job"] == self._job else {}

    def __contains__(self, shard: str) -> bool:
        return shard in self._finished

    def __len__(self) -> int:
        return len(self._finished)

    @property
    def errors(self) -> dict[str, float]:
        """Relative error of every quantized tensor of the finished shards."""
        rows = self._finished.values()
        return dict(sorted(pair for row in rows for pair in row["errors"].items()))

    def add(self, shard: str, size: int, errors: Mapping[str, float]) -> None:
        """Record that `shard`, `size` bytes long, is finished."""
        with self._lock:
            self._finished[shard] = {"bytes": size, "errors": dict(errors)}
            if self._path is not None:
                record = {"job": self._job, "shards": self._finished}
                write_atomically(self._path, json.dumps(record).encode())
