"""Atomic files and directories: complete or absent, even when the process is killed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import BadInputError
from .sizes import size_text

TEMPORARY: Final = ".nemo-deploy-"
"""Prefix of all names that an interrupted run may leave behind; `clean` deletes them."""

REPORT: Final = "report"
"""Directory of reports, in a bundle and beside a quantized checkpoint."""

PARTIAL: Final = f"{TEMPORARY}partial-"
"""Prefix of directories that keep the finished parts of an interrupted run for the next one."""


@contextmanager
def locked(path: Path, shown: Path | None = None) -> Iterator[None]:
    """Lock the directory `path` for one writer. Raises `BadInputError`, naming `shown` or else
    `path`, when another process holds the lock."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another may have finished between our open and our lock, and put a new one there.
            ours = os.fstat(descriptor).st_ino == path.stat().st_ino
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise BadInputError(
                f"{shown or path}: another nemo-deploy is writing here; wait until it ends"
            )
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Work:
    """Two directories for work that may take several runs: `content` becomes the target, `state`
    records what is finished and is never part of the result."""

    content: Path
    state: Path


@contextmanager
def resumable(target: Path, inputs: str) -> Iterator[Work]:
    """A locked place beside `target` to make it in; `inputs` digests all that it depends on.

    What a killed run with the same inputs finished is kept; what it made of others is deleted.
    When the block fails, a note on the exception says where finished parts are; where there are
    none, nothing stays. The caller moves `content` into place inside the block. Raises
    `BadInputError` when another process makes the same target.
    """
    root = _partial_of(target)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{target}: cannot be created: {error.strerror}") from error
    with locked(root, target):
        work = Work(root / "content", root / "state")
        _take_up(root, work, inputs)
        try:
            yield work
        except BaseException as error:
            if not any(work.content.iterdir()) and not any(work.state.iterdir()):
                shutil.rmtree(root, ignore_errors=True)
            else:
                error.add_note(f"Finished parts are kept in {root}.")
            raise
        shutil.rmtree(root, ignore_errors=True)


def _partial_of(target: Path) -> Path:
    return target.parent / f"{PARTIAL}{target.name}"


def _take_up(root: Path, work: Work, inputs: str) -> None:
    """Keep the content of `root` if it was made from `inputs`; delete it otherwise."""
    mark = root / "inputs"
    if not mark.is_file() or mark.read_text(encoding="utf-8") != inputs:
        for left in root.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        write_atomically(mark, inputs.encode())
    for directory in (work.content, work.state):
        directory.mkdir(exist_ok=True)
    clean(root)
    clean(work.state)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A temporary directory beside `target` that becomes `target` when the block ends well.

    Raises `BadInputError` when `target` already holds something or cannot be made.
    """
    require_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=target.parent))
    except OSError as error:
        raise BadInputError(f"{target}: cannot be created: {error.strerror}") from error
    try:
        work.chmod(0o755)
        yield work
        _become(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def resumable_directory(target: Path, inputs: str) -> Iterator[Work]:
    """As `new_directory`, but keeps what a killed run with the same `inputs` finished.

    Raises `BadInputError` also when another process makes the same target.
    """
    root = _partial_of(target)
    if target.exists() and root.is_dir() and not (root / "content").exists():
        shutil.rmtree(root, ignore_errors=True)  # killed just after it had finished
    require_free(target)
    with resumable(target, inputs) as work:
        require_free(target)
        yield work
        _become(work.content, target)


def _become(work: Path, target: Path) -> None:
    sync_tree(work)
    if target.exists():
        target.rmdir()
    work.rename(target)
    sync(target.parent)


def require_free(target: Path) -> None:
    """Raise `BadInputError` where something is at `target`, except an empty directory."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInputError(f"{target}: already holds something; choose another --out or remove it")


def kept_bytes(target: Path) -> int:
    """Bytes that an interrupted run which makes `target` has left, to go on from."""
    partial = _partial_of(target)
    return tree_bytes(partial) if partial.is_dir() else 0


class NoSpaceError(BadInputError):
    """A file system has `free` bytes where `needed` are needed."""

    def __init__(self, message: str, needed: int, free: int) -> None:
        super().__init__(message)
        self.needed, self.free = needed, free


def require_space(needs: Mapping[Path, int], otherwise: str = "") -> None:
    """Raise `NoSpaceError` where a file system has too few bytes free for all that goes to it.

    `needs` gives the bytes for each path, which need not exist; `otherwise` what else would help.
    """
    by_device: dict[int, list[Path]] = {}
    for path in needs:
        by_device.setdefault(existing(path).stat().st_dev, []).append(path)
    for paths in by_device.values():
        needed, free = sum(needs[path] for path in paths), free_bytes(paths[0])
        if free < needed:
            raise NoSpaceError(
                f"{' and '.join(map(str, paths))}: {size_text(needed, 1)} are needed here and "
                f"{size_text(free, 1)} are free; free some space, choose another --out{otherwise}",
                needed,
                free,
            )


def free_bytes(path: Path) -> int:
    """Free bytes of the file system that `path` lies on or would lie on."""
    return shutil.disk_usage(existing(path)).free


def existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def clean(path: Path, partial: bool = False) -> None:
    """Remove what an interrupted run left in the directory `path`; with `partial`, also finished
    parts that the next run could go on from."""
    for left in path.glob(f"{TEMPORARY}*"):
        if left.name.startswith(PARTIAL) and not partial:
            continue
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def tree_bytes(path: Path) -> int:
    """Bytes of all files below `path`."""
    return sum((path / name).stat().st_size for name in list_files(path, path))


def digest_of(value: object) -> str:
    """SHA-256 of a JSON-serialisable value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write `path` so that it holds its old content or all of the new one, even after a crash.

    Raises `BadInputError` naming the file when the disk is full or refuses.
    """
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        sync(path.parent)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise BadInputError(f"{path}: cannot be written: {error.strerror}") from error
        raise


def list_files(root: Path, below: Path) -> list[str]:
    """All files below `below`, as sorted paths relative to `root`; any symbolic link counts."""
    found = []
    for directory, folders, names in os.walk(below):
        links = [name for name in folders if (Path(directory) / name).is_symlink()]
        found += [str((Path(directory) / name).relative_to(root)) for name in (*names, *links)]
    return sorted(found)


def sync_tree(path: Path) -> None:
    """Flush every file and directory below `path` to the disk."""
    for directory, _, names in os.walk(path):
        for name in names:
            sync(Path(directory) / name)
        sync(Path(directory))


def sync(path: Path) -> None:
    """Flush one file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
