"""The bundle: one directory with everything a deployment needs, and `bundle.json`, its record.

A stage works in a temporary directory beside its target and is renamed into place when done; a long
one goes on where a killed run left off. The record forgets a stage before its directory is replaced
and learns it again afterwards, so at any moment it lists only what is really there: a killed build
leaves an older or a newer state, never a mixture, and the next run completes it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .checks import Check
from .errors import BadInputError, CheckFailedError
from .files import (
    TEMPORARY,
    Work,
    clean,
    list_files,
    locked,
    resumable,
    sha256,
    sync,
    sync_tree,
    write_atomically,
)

RECORD_NAME: Final = "bundle.json"
SCHEMA: Final = 1
STAGES: Final = ("checkpoint", "engine", "model_repository", "k8s")
REPORT: Final = "report"


@dataclass(slots=True)
class Bundle:
    """An opened bundle directory. `record` is what `bundle.json` holds."""

    path: Path
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """The bundle at `path`. Raises `BadInputError` for none, or one with a broken record."""
        file = path / RECORD_NAME
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadInputError(
                f"{path}: no bundle here (no {RECORD_NAME}); make one with nemo-deploy build"
            ) from None
        except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
            raise BadInputError(f"{file}: not readable: {error}") from error
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise BadInputError(f"{file}: not a record of this version (schema {SCHEMA})")
        for key in ("files", "stages"):
            if not isinstance(record.get(key), dict):
                raise BadInputError(f"{file}: `{key}` is missing")
        return cls(path, record)

    @property
    def name(self) -> str:
        return str(self.record["name"])

    @property
    def model_name(self) -> str:
        return str(self.record["model_name"])

    @property
    def complete(self) -> bool:
        return bool(self.record["complete"])

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def engine(self) -> Path:
        return self.path / "engine"

    @property
    def repository(self) -> Path:
        return self.path / "model_repository"

    @property
    def k8s(self) -> Path:
        return self.path / "k8s"

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        files: dict[str, dict[str, Any]] = self.record["files"]
        return files

    def require_complete(self) -> None:
        """Raise `CheckFailedError` when a build of this bundle has not run to its end."""
        if not self.complete:
            raise CheckFailedError(
                f"{self.path}: this bundle is incomplete (its build was interrupted); run the same "
                "nemo-deploy build again to complete it"
            )

    def stage_bytes(self, stage: str) -> int:
        """Bytes of all files of `stage` as recorded."""
        prefix = f"{stage}/"
        return sum(row["bytes"] for name, row in self.files.items() if name.startswith(prefix))

    def stage_is_current(self, stage: str, inputs: str) -> bool:
        """Whether `stage` was made from these inputs and is still as it was left.

        Sizes are compared with the record; a file changed since the record was written is hashed.
        """
        if self.record["stages"].get(stage, {}).get("inputs") != inputs:
            return False
        recorded = {name for name in self.files if name.startswith(f"{stage}/")}
        if recorded != set(list_files(self.path, self.path / stage)):
            return False
        written = (self.path / RECORD_NAME).stat().st_mtime_ns
        for name in recorded:
            status, row = (self.path / name).stat(), self.files[name]
            if status.st_size != row["bytes"]:
                return False
            if status.st_mtime_ns > written and sha256(self.path / name) != row["sha256"]:
                return False
        return True

    def run_stage(
        self, stage: str, inputs: str, make: Callable[[Path], Mapping[str, Any] | None]
    ) -> None:
        """Make `stage` by `make(directory)` in a temporary directory, then put it in place.

        `inputs` is a digest of all that the result depends on. What `make` returns is recorded.
        """
        work = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{stage}-", dir=self.path))
        work.chmod(0o755)
        try:
            made = make(work)
            self._put_in_place(stage, inputs, work, made)
        finally:
            clean(self.path)

    def resume_stage(
        self, stage: str, inputs: str, make: Callable[[Work], Mapping[str, Any] | None]
    ) -> None:
        """As `run_stage`, but what a killed run with the same inputs finished is there again."""
        try:
            with resumable(self.path / stage, inputs) as work:
                made = make(work)
                self._put_in_place(stage, inputs, work.content, made)
        finally:
            clean(self.path)

    def _put_in_place(
        self, stage: str, inputs: str, work: Path, made: Mapping[str, Any] | None
    ) -> None:
        target = self.path / stage
        files = {f"{stage}/{name}": _describe(work / name) for name in list_files(work, work)}
        sync_tree(work)
        self._forget(stage)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}old-", dir=self.path))
            target.rename(old / stage)
        work.rename(target)
        sync(self.path)
        self.record["files"] |= files
        self.record["stages"][stage] = {"inputs": inputs, "made": made}
        self.save()

    def add_report(self, name: str, content: bytes) -> Path:
        """Write `report/<name>` and record it."""
        target = self.path / REPORT / name
        target.parent.mkdir(exist_ok=True)
        write_atomically(target, content)
        self.record["files"][f"{REPORT}/{name}"] = _describe(target)
        self.save()
        return target

    def _forget(self, stage: str) -> None:
        self.record["complete"] = False
        self.record["stages"].pop(stage, None)
        self.record["files"] = {
            name: row for name, row in self.files.items() if not name.startswith(f"{stage}/")
        }
        self.save()

    def save(self) -> None:
        """Write the record atomically."""
        self.record["files"] = dict(sorted(self.files.items()))
        text = json.dumps(self.record, indent=2) + "\n"
        write_atomically(self.path / RECORD_NAME, text.encode())

    def verify_files(self, on_bytes: Callable[[int], None] | None = None) -> list[Check]:
        """Compare every file with its recorded size and SHA-256, and look for files not recorded.

        `on_bytes` is called with the number of bytes read so far, for a progress bar.
        """
        wrong: list[str] = []
        done = 0
        for name, row in self.files.items():
            path = self.path / name
            if path.is_symlink() or not path.is_file():
                wrong.append(f"{name} is missing")
            elif path.stat().st_size != row["bytes"]:
                wrong.append(f"{name} has {path.stat().st_size} bytes, recorded are {row['bytes']}")
            elif sha256(path) != row["sha256"]:
                wrong.append(f"{name} was changed (its SHA-256 differs)")
            done += row["bytes"]
            if on_bytes:
                on_bytes(done)
        extra = sorted(set(list_files(self.path, self.path)) - set(self.files) - {RECORD_NAME})
        detail = "; ".join(wrong) or f"{len(self.files)} files, {done} bytes"
        return [
            Check("complete", self.complete, "every stage" if self.complete else "build again"),
            Check("digests", not wrong, detail),
            Check("no other files", not extra, ", ".join(extra) or "none"),
        ]


@contextmanager
def building(path: Path, header: Mapping[str, Any]) -> Iterator[Bundle]:
    """Create or reopen the bundle at `path` for a build, locked, with what is in `header` recorded.

    Raises `BadInputError` when the directory holds something else.
    """
    created = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be created: {error.strerror}") from error
    with locked(path):
        clean(path)
        if (path / RECORD_NAME).exists():
            bundle = Bundle.open(path)
        else:
            foreign = sorted(item.name for item in path.iterdir())
            if foreign and not created:
                raise BadInputError(
                    f"{path}: holds something else ({foreign[0]}), no bundle; choose another --out"
                )
            bundle = Bundle(path, {"files": {}, "stages": {}})
        wanted = {"schema": SCHEMA, **header}
        changed = {key: value for key, value in wanted.items() if bundle.record.get(key) != value}
        if changed:
            rest = {key: bundle.record[key] for key in ("stages", "files")}
            bundle.record = {**wanted, "complete": False, **rest}
            bundle.save()
        try:
            yield bundle
        except BaseException as error:
            left = {item.name for item in path.iterdir()}
            if created and left <= {RECORD_NAME}:  # it failed before anything was made
                (path / RECORD_NAME).unlink(missing_ok=True)
                path.rmdir()
            elif bundle.record["stages"]:
                stages = ", ".join(bundle.record["stages"])
                error.add_note(f"Finished stages are kept in {path}: {stages}.")
            raise
        clean(path, partial=True)
        if not bundle.complete:
            bundle.record["complete"] = True
            bundle.save()


def _describe(path: Path) -> dict[str, Any]:
    return {"sha256": sha256(path), "bytes": path.stat().st_size}
