"""`fill`: makes a bundle on a claim, in the place that its digest names."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from ..core.bundle import Bundle, inputs_digest
from ..core.errors import BadInputError, CheckFailedError, RefusedError, UsageError
from ..core.files import NoSpaceError
from ..core.record import RECORD_NAME
from ..core.result import MADE_BY, Result
from ..core.sizes import size_text
from ..runtime import claim as claims
from ..runtime import contract
from ..runtime.check_bundle import Identity, ProgressLines, bundles, confusion, mark_used, problems
from .build import make
from .build_stages import Job, served_from

DOWNLOADS: Final = ".downloads"
"""Folder of the claim where checkpoints are downloaded to, until a bundle is made of them."""


@dataclass(frozen=True, slots=True)
class FillResult(Result):
    """A claim that holds the bundle.

    Attributes:
        bundle: Its directory on the claim.
        digest: The `inputs_digest` that names it.
        made: Whether it was made now; false where it was there already.
        deleted: Digests of older bundles that were deleted.
    """

    SCHEMA: ClassVar[int] = 1

    bundle: Path
    digest: str
    made: bool
    deleted: tuple[str, ...] = ()


def fill(
    claim: Path,
    digest: str,
    prepare: Callable[[Path], Job],
    *,
    keep: int = 2,
    made_by: str | None = None,
    progress: ProgressLines | None = None,
) -> FillResult:
    """Make the bundle that the digest names on the claim, unless it is there and undamaged.

    An interrupted run leaves what it finished on the claim; the same call resumes it.

    Args:
        claim: The folder where the claim is mounted.
        digest: The bundle's `inputs_digest`.
        prepare: Decides the build whose bundle goes to the given directory.
        keep: Other bundles that stay on the claim, those that were used last.
        made_by: The version of nemo-deploy that wrote the digest, for a message.
        progress: Receives what is being done.

    Raises `UsageError` for what is no digest; `RefusedError` where the build would make another
    bundle, before it begins; `BadInputError` for a claim that cannot be written or is full, and as
    the build; `CheckFailedError` where the bundle differs from its record after it was made twice.
    """
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise UsageError(f"--digest {digest!r}: must be 64 hex digits, as the manifests have it")
    progress = progress or ProgressLines(write=lambda _: None)
    with _explained(claim):
        _require_writable(claim)
        expected = Identity(digest, "inputs")
        if _is_there(claim / digest, expected, progress):
            mark_used(claim, digest)
            return FillResult(claim / digest, digest, made=False)
        _keep_downloads_on(claim)
        job = prepare(claim / claims.BUILDING / digest / "bundle")
        _require_same(job, digest, made_by)
        with claims.working_folder(
            claim, claims.BUILDING, digest, lambda: progress.step("waiting")
        ):
            if _is_there(claim / digest, expected, progress):  # another made it meanwhile
                return FillResult(claim / digest, digest, made=False)
            deleted = claims.prune(claim, keep, digest)
            _take_up(claim / digest, job.out)
            _make(job, progress)
            bundle = claims.install(job.out, claim, digest)
            shutil.rmtree(claim / claims.BUILDING / digest, ignore_errors=True)
        _delete_downloads(claim)
    return FillResult(bundle, digest, made=True, deleted=tuple(deleted))


def _is_there(bundle: Path, expected: Identity, progress: ProgressLines) -> bool:
    return (
        (bundle / RECORD_NAME).exists()
        and not confusion(bundle, expected)
        and not problems(bundle, progress)
    )


def _require_same(job: Job, digest: str, made_by: str | None) -> None:
    """Raise `RefusedError` where the build makes another bundle than the manifests name."""
    actual = inputs_digest(served_from(job))
    if actual != digest:
        raise RefusedError(
            f"fill --digest {digest} (rule: same-bundle): with these options {MADE_BY} makes the "
            f"bundle {actual}; the manifests were made by {made_by or 'another version'}. Either "
            "the versions differ, or the options, or the checkpoint changed at its source. What "
            "works instead: use the image of the version that made the manifests, or make them "
            "again with nemo-deploy build of this version and apply them"
        )


def _take_up(damaged: Path, work: Path) -> None:
    """Begin with a bundle that is there and damaged, where nothing was begun yet. One whose record
    cannot be read is left where it is, until the new one takes its place."""
    if work.exists() or not (damaged / RECORD_NAME).exists():
        return
    with contextlib.suppress(BadInputError):
        Bundle.open(damaged)
        damaged.rename(work)


def _make(job: Job, progress: ProgressLines) -> None:
    """Make the bundle, and once more what turns out to be damaged: a disk may have lost what was
    written before a crash."""
    for _ in range(2):
        make(job, progress)
        damages = problems(job.out, progress)
        if not damages:
            return
        for name in damages:
            (job.out / name).unlink(missing_ok=True)
    raise CheckFailedError(
        f"{job.out}: the bundle was made twice and is damaged each time: "
        f"{'; '.join(list(damages.values())[:3])}. The volume may be failing"
    )


def _require_writable(claim: Path) -> None:
    if not claim.is_dir():
        raise BadInputError(f"{claim}: no such directory; a claim must be mounted there")
    (claim / claims.BUILDING).mkdir(exist_ok=True)


def _keep_downloads_on(claim: Path) -> None:
    """Download to the claim, unless the environment says where to: a container's own disk is small,
    and an evicted pod loses it. huggingface_hub reads the variable when it is imported."""
    if not {contract.HF_HOME.name, contract.HF_CACHE.name} & os.environ.keys():
        os.environ[contract.HF_HOME.name] = str(claim / DOWNLOADS)


def _delete_downloads(claim: Path) -> None:
    """Delete downloaded checkpoints where no other bundle is in work."""
    if not any(claims.in_work(folder) for folder in (claim / claims.BUILDING).iterdir()):
        shutil.rmtree(claim / DOWNLOADS, ignore_errors=True)


@contextlib.contextmanager
def _explained(claim: Path) -> Iterator[None]:
    """Turn what the claim's file system refuses into a `BadInputError` that says what to do."""
    try:
        yield
    except (OSError, BadInputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(error, NoSpaceError):
            raise BadInputError(
                _full(claim, f"{size_text(error.needed, 1)} more are needed")
            ) from None
        if isinstance(cause, OSError) and (text := _explanation(claim, cause)):
            explained = BadInputError(text)
            explained.__notes__ = getattr(error, "__notes__", [])  # what is kept
            raise explained from error
        raise


def _explanation(claim: Path, error: OSError) -> str | None:
    """What the claim refuses, in words; None for another failure."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full(claim, "its last bytes were used up")
    if not str(error.filename).startswith(str(claim)):
        return None
    if error.errno == errno.EROFS:
        return f"{claim}: the volume is read-only; mount the claim for writing"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"{claim}: user {os.getuid()} cannot write here. Use a storage class that supports "
            "fsGroup, or make the volume's root writable for that user"
        )
    return None


def _full(claim: Path, why: str) -> str:
    free = size_text(shutil.disk_usage(claim).free, 1)
    held = ", ".join(bundle.name[:10] for bundle in bundles(claim)) or "none"
    return (
        f"{claim}: the volume is too small: {why}, {free} are free, and the bundles on it are: "
        f"{held}. Enlarge the claim, or keep fewer bundles (--keep)"
    )
