"""The bundle: one directory with everything a deployment needs, and `bundle.json`, its record.

A stage is made in a temporary directory beside its target and renamed into place when it is done;
a long one resumes where a killed run stopped. The record drops a stage before its directory is
replaced and adds it again afterwards, so it lists only what exists at any moment. A killed build
leaves an older or a newer state, never a mixture, and the next build completes it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ..runtime import check_bundle
from .checks import Check
from .errors import BadInputError, CheckFailedError
from .files import (
    REPORT,
    TEMPORARY,
    Work,
    clean,
    digest_of,
    list_files,
    locked,
    resumable,
    sha256,
    sync,
    sync_tree,
    write_atomically,
)
from .migrations import Document
from .record import (
    RECORD_NAME,
    FileRecord,
    Header,
    Record,
    StageRecord,
    read_record,
    to_document,
)
from .result import MADE_BY

CHECKPOINT: Final = "checkpoint"
STAGES: Final = (CHECKPOINT, "engine", "model_repository", "k8s")


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """What a stage is made from: the code (`encoding N`, `sources SHA-256`), and the digest of
    everything else. The package's version is in neither."""

    maker: str
    inputs: str

    def __str__(self) -> str:
        return digest_of([self.maker, self.inputs])


def inputs_digest(made_from: Mapping[str, MadeFrom]) -> str:
    """The `Bundle.inputs_digest` of a bundle whose stages are made from this, by their names."""
    stages = {stage: dataclasses.asdict(row) for stage, row in made_from.items()}
    return check_bundle.inputs_digest({"stages": stages})


@dataclass(slots=True)
class Bundle:
    """An opened bundle directory. `record` is what `bundle.json` holds."""

    path: Path
    record: Record

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """The bundle at `path`. Raises as `record.read_record`."""
        return cls(path, read_record(path))

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def model_name(self) -> str:
        return self.record.model_name

    @property
    def complete(self) -> bool:
        return self.record.complete

    @property
    def needs(self) -> tuple[str, ...]:
        """What a server needs beyond a released engine."""
        return self.record.needs

    @property
    def files(self) -> dict[str, FileRecord]:
        return self.record.files

    @property
    def total_bytes(self) -> int:
        """Bytes of all files as recorded."""
        return sum(row.bytes for row in self.files.values())

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

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
    def files_digest(self) -> str:
        """The digest that names the served files' bytes, 64 hex digits (`runtime/check_bundle.py`).

        Raises `BadInputError` for a bundle that lacks a served stage, as does `inputs_digest`.
        """
        return self._digest(check_bundle.files_digest)

    @property
    def inputs_digest(self) -> str:
        """The digest that names what the served stages are made from, the same on any machine."""
        return self._digest(check_bundle.inputs_digest)

    def _digest(self, digest: Callable[[Document], str]) -> str:
        try:
            return digest(to_document(self.record))
        except ValueError as error:
            raise BadInputError(f"{self.path / RECORD_NAME}: {error}; build it again") from None

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
        return sum(row.bytes for name, row in self.files.items() if name.startswith(prefix))

    def stage_digests(self, stage: str) -> dict[str, str]:
        """SHA-256 of every file of `stage` as recorded."""
        prefix = f"{stage}/"
        return {n: row.sha256 for n, row in self.files.items() if n.startswith(prefix)}

    def why_outdated(self, stage: str, made_from: MadeFrom) -> str | None:
        """Why `stage` has to be made, in words; None when it was made from this and is unchanged.

        Sizes are compared with the record; a file changed since the record was written is hashed.
        """
        recorded = self.record.stages.get(stage)
        if recorded is None:
            return "it is not in the bundle yet"
        if recorded.maker != made_from.maker:
            return "the code that makes it has changed"
        if recorded.inputs != made_from.inputs:
            return "its inputs have changed"
        if self._files_changed(stage):
            return "its files were changed"
        return None

    def _files_changed(self, stage: str) -> bool:
        recorded = {name for name in self.files if name.startswith(f"{stage}/")}
        if (self.path / stage).is_symlink():
            return True
        if recorded != set(list_files(self.path, self.path / stage)):
            return True
        written = (self.path / RECORD_NAME).stat().st_mtime_ns
        for name in recorded:
            status, row = (self.path / name).lstat(), self.files[name]
            if not stat.S_ISREG(status.st_mode) or status.st_size != row.bytes:
                return True
            if status.st_mtime_ns > written and sha256(self.path / name) != row.sha256:
                return True
        return False

    def run_stage(
        self, stage: str, made_from: MadeFrom, make: Callable[[Path], Mapping[str, Any] | None]
    ) -> None:
        """Make `stage` by `make(directory)` in a temporary directory, then put it in place.

        What `make` returns is recorded.
        """
        work = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{stage}-", dir=self.path))
        work.chmod(0o755)
        try:
            made = make(work)
            self._put_in_place(stage, made_from, work, made)
        finally:
            clean(self.path)

    def resume_stage(
        self, stage: str, made_from: MadeFrom, make: Callable[[Work], Mapping[str, Any] | None]
    ) -> None:
        """As `run_stage`, but resumes what a killed run made from the same inputs."""
        try:
            with resumable(self.path / stage, str(made_from)) as work:
                made = make(work)
                self._put_in_place(stage, made_from, work.content, made)
        finally:
            clean(self.path)

    def _put_in_place(
        self, stage: str, made_from: MadeFrom, work: Path, made: Mapping[str, Any] | None
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
        self.files.update(files)
        self.record.stages[stage] = StageRecord(
            maker=made_from.maker,
            inputs=made_from.inputs,
            made_by=MADE_BY,
            made=dict(made) if made is not None else None,
        )
        self.save()

    def add_report(self, name: str, content: bytes) -> Path:
        """Write `report/<name>` and record it."""
        (self.path / REPORT).mkdir(exist_ok=True)
        return self.replace_file(f"{REPORT}/{name}", content)

    def replace_file(self, name: str, content: bytes) -> Path:
        """Write the file `name`, a path inside the bundle, and record it."""
        target = self.path / name
        write_atomically(target, content)
        self.files[name] = _describe(target)
        self.save()
        return target

    def _forget(self, stage: str) -> None:
        self.record.stages.pop(stage, None)
        kept = {name: row for name, row in self.files.items() if not name.startswith(f"{stage}/")}
        self.record = dataclasses.replace(self.record, complete=False, files=kept)
        self.save()

    def save(self) -> None:
        """Write the record atomically."""
        text = json.dumps(to_document(self.record), indent=2) + "\n"
        write_atomically(self.path / RECORD_NAME, text.encode())

    def verify_files(self, on_bytes: Callable[[int], None] | None = None) -> list[Check]:
        """Compare every file with its recorded size and SHA-256, and look for files not recorded.

        `on_bytes` is called with the number of bytes read so far, for a progress bar. No symbolic
        link is followed.
        """
        wrong: list[str] = []
        done = 0
        links = _Links(self.path)
        for name, row in self.files.items():
            problem = self._problem(name, row, links)
            if problem:
                wrong.append(f"{name} {problem}")
            done += row.bytes
            if on_bytes:
                on_bytes(done)
        extra = sorted(set(list_files(self.path, self.path)) - set(self.files) - {RECORD_NAME})
        detail = "; ".join(wrong) or f"{len(self.files)} files, {done} bytes"
        return [
            Check("complete", self.complete, "every stage" if self.complete else "build again"),
            Check("digests", not wrong, detail),
            Check("no other files", not extra, ", ".join(extra) or "none"),
        ]

    def _problem(self, name: str, row: FileRecord, links: _Links) -> str | None:
        """What is wrong with one file, or None."""
        path = self.path / name
        if link := links.on_the_way(name):
            return f"lies behind a symbolic link ({link})"
        if not path.is_file():
            return "is missing"
        size = path.stat().st_size
        if size != row.bytes:
            return f"has {size} bytes, {row.bytes} are recorded"
        if sha256(path) != row.sha256:
            return "was changed (its SHA-256 differs)"
        return None


class _Links:
    """Symbolic links on the way to files below `root`; each folder is looked at once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[PurePosixPath, PurePosixPath | None] = {PurePosixPath(): None}

    def on_the_way(self, name: str | PurePosixPath) -> PurePosixPath | None:
        """The first link in the path `name`, or None."""
        path = PurePosixPath(name)
        if path not in self._known:
            link = self.on_the_way(path.parent)
            if link is None and (self._root / path).is_symlink():
                link = path
            self._known[path] = link
        return self._known[path]


def require_place(path: Path) -> None:
    """Raise `BadInputError` where there can be no bundle at `path`: something else is there, or the
    directory cannot be written."""
    if path.exists() and not path.is_dir():
        raise BadInputError(f"{path}: is no directory; choose another --out")
    if path.is_dir() and not (path / RECORD_NAME).exists():
        _require_empty(path)
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise BadInputError(f"{path}: {nearest} cannot be written; choose another --out")


def _require_empty(path: Path) -> None:
    names = sorted(item.name for item in path.iterdir())
    if foreign := [name for name in names if not name.startswith(TEMPORARY)]:
        raise BadInputError(
            f"{path}: holds something else ({foreign[0]}) and no bundle; choose another --out"
        )


@contextmanager
def building(path: Path, header: Header) -> Iterator[Bundle]:
    """Create or reopen the bundle at `path` for a build, locked, with `header` recorded.

    Raises `BadInputError` when the directory holds something else.
    """
    created = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be created: {error.strerror}") from error
    with locked(path):
        clean(path)
        bundle = _reopened(path, header) or _begun(path, header, created)
        try:
            yield bundle
        except BaseException as error:
            left = {item.name for item in path.iterdir()}
            if created and left <= {RECORD_NAME}:  # it failed before anything was made
                (path / RECORD_NAME).unlink(missing_ok=True)
                path.rmdir()
            elif bundle.record.stages:
                stages = ", ".join(bundle.record.stages)
                error.add_note(f"Finished stages are kept in {path}: {stages}.")
            raise
        clean(path, partial=True)
        if not bundle.complete:
            bundle.record = dataclasses.replace(bundle.record, complete=True)
            bundle.save()


def _reopened(path: Path, header: Header) -> Bundle | None:
    """The bundle that is at `path` already; its record is written only if `header` differs."""
    if not (path / RECORD_NAME).exists():
        return None
    bundle = Bundle.open(path)
    wanted = {row.name: getattr(header, row.name) for row in dataclasses.fields(header)}
    if any(getattr(bundle.record, key) != value for key, value in wanted.items()):
        bundle.record = dataclasses.replace(bundle.record, complete=False, **wanted)
        bundle.save()
    return bundle


def _begun(path: Path, header: Header, created: bool) -> Bundle:
    if not created:
        _require_empty(path)
    wanted = {row.name: getattr(header, row.name) for row in dataclasses.fields(header)}
    bundle = Bundle(path, Record(**wanted, complete=False, files={}, stages={}))
    bundle.save()
    return bundle


def _describe(path: Path) -> FileRecord:
    return FileRecord(bytes=path.stat().st_size, sha256=sha256(path))
