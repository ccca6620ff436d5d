"""Files and directories that are there whole or not at all, even when the process is killed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .errors import BadInputError

TEMPORARY: Final = ".nemo-deploy-"
"""Prefix of everything that an interrupted run may leave behind; `clean` removes it."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the directory `path` for one writer. Raises `BadInputError` when another has it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInputError(
                f"{path}: another nemo-deploy is writing here; wait for it"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A temporary directory beside `target` that becomes `target` when the block ends well.

    Raises `BadInputError` when `target` already holds something or cannot be made.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInputError(f"{target}: already holds something; choose another --out or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=target.parent))
    except OSError as error:
        raise BadInputError(f"{target}: cannot be created: {error.strerror}") from error
    try:
        work.chmod(0o755)
        yield work
        sync_tree(work)
        if target.exists():
            target.rmdir()
        work.rename(target)
        sync(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def require_space(path: Path, needed: int) -> None:
    """Raise `BadInputError` when the file system of `path` has fewer than `needed` bytes free."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise BadInputError(
            f"{path}: {needed / 1e9:.1f} GB are needed here and {free / 1e9:.1f} GB are free; free "
            "some space or choose another --out"
        )


def clean(path: Path) -> None:
    """Remove what an interrupted run left in the bundle directory `path`."""
    for left in path.glob(f"{TEMPORARY}*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def digest_of(value: object) -> str:
    """SHA-256 of a JSON-serialisable value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write `path` so that it holds its old content or all of the new one, even after a crash."""
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        sync(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
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
