"""The folders of a claim: bundles, each named by its digest, and what is being made of them.

    CLAIM/DIGEST             a complete bundle
    CLAIM/.building/DIGEST   what `nemo-deploy fill` makes
    CLAIM/.incoming/DIGEST   what `nemo-deploy push` copies
    CLAIM/.used/DIGEST       an empty file, whose time is that of the last use

A bundle appears and disappears by a rename. As `check_bundle.py`, this runs with Python 3.8 and the
standard library.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .check_bundle import USED, bundles, mark_used

BUILDING = ".building"
INCOMING = ".incoming"
_DELETED = ".deleted"


@contextmanager
def working_folder(
    claim: Path, kind: str, digest: str, on_wait: Callable[[], object]
) -> Iterator[Path]:
    """CLAIM/KIND/DIGEST, locked for one writer. As long as another has it, this waits, and calls
    `on_wait` before. Raises OSError where the folder cannot be made."""
    folder = claim / kind / digest
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The one before us may have ended well, and deleted the folder that we locked.
            if folder.is_dir() and folder.stat().st_ino == os.fstat(descriptor).st_ino:
                yield folder
                return
        finally:
            os.close(descriptor)


def install(bundle: Path, claim: Path, digest: str) -> Path:
    """Rename a complete bundle, which is on the claim already, to CLAIM/DIGEST, in the place of
    whatever is there."""
    target = claim / digest
    if target.exists():
        _delete(target, claim)
    bundle.rename(target)
    _sync(claim)
    mark_used(claim, digest)
    return target


def prune(claim: Path, keep: int, digest: str) -> list[str]:
    """Make room for the bundle `digest`: of the others, leave the `keep` that were used last, at
    least one, and those that are served now. Deletes also what abandoned runs left of others. Gives
    the bundles deleted."""
    for left in (claim / _DELETED).glob("*"):
        shutil.rmtree(left, ignore_errors=True)
    others = sorted(
        (bundle for bundle in bundles(claim) if bundle.name != digest), key=last_use, reverse=True
    )
    surplus = [bundle for bundle in others[max(keep, 1) :] if not served(bundle)]
    abandoned = [
        folder
        for kind in (BUILDING, INCOMING)
        for folder in sorted((claim / kind).glob("*"))
        if folder.name != digest and folder.is_dir() and not in_work(folder)
    ]
    for folder in [*surplus, *abandoned]:
        _delete(folder, claim)
    for bundle in surplus:
        (claim / USED / bundle.name).unlink(missing_ok=True)
    return [bundle.name for bundle in surplus]


def last_use(bundle: Path) -> float:
    """When the bundle was used last, as far as is known: at least since it was made."""
    marker = bundle.parent / USED / bundle.name
    return (marker if marker.exists() else bundle / "bundle.json").stat().st_mtime


def serve_from(bundle: Path) -> None:
    """Keep `prune` from deleting this bundle as long as this process lives: one that was checked
    later is not necessarily one that got ready. On volumes without locks, this does nothing."""
    with suppress(OSError):
        descriptor = os.open(bundle / "bundle.json", os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def served(bundle: Path) -> bool:
    """Whether a process serves this bundle. NFS wants a file that is open for writing."""
    try:
        descriptor = os.open(bundle / "bundle.json", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    finally:
        os.close(descriptor)
    return False


def in_work(folder: Path) -> bool:
    """Whether somebody holds the lock of a working folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _delete(folder: Path, claim: Path) -> None:
    """Delete a folder that looks complete until the first moment, and is gone from then on."""
    gone = claim / _DELETED / f"{folder.parent.name}-{folder.name}"
    gone.parent.mkdir(exist_ok=True)
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
