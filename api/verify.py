"""`verify`: is a bundle what its build left, and is all of it well-formed?"""

from __future__ import annotations

from pathlib import Path

from ..core.bundle import Bundle
from ..core.checks import Check
from ..core.errors import NemoDeployError
from ..core.progress import Progress, Silent
from ..model.checkpoint import Checkpoint


def verify(path: Path, progress: Progress | None = None) -> list[Check]:
    """Every check of the bundle at `path`, also those after one that failed.

    Raises `BadInputError` when there is no bundle at all.
    """
    from .. import k8s, triton_repo
    from ..build.engines.registry import check as check_engine

    bundle = Bundle.open(path)
    total = sum(row["bytes"] for row in bundle.files.values())
    advance = (progress or Silent()).step("digests", total, unit="bytes")
    checks = bundle.verify_files(advance)
    for room, check, where in (
        ("checkpoint", _check_checkpoint, bundle.checkpoint),
        ("engine", check_engine, bundle.engine),
        ("golden outputs", _check_golden, bundle.engine),
        ("model_repository", triton_repo.check, bundle.repository),
        ("k8s", k8s.check, bundle.k8s),
    ):
        try:
            checks += check(where)
        except NemoDeployError as error:
            checks.append(Check(room, False, str(error)))
    return checks


def _check_checkpoint(path: Path) -> list[Check]:
    checkpoint = Checkpoint.open(path)
    detail = f"{len(checkpoint.tensors)} tensors, {checkpoint.bytes} bytes"
    return [Check("safetensors headers", True, detail)]


def _check_golden(engine: Path) -> list[Check]:
    from ..triton_repo.served.golden import FILE, Golden, GoldenError

    try:
        found = Golden.read(engine / FILE)
    except GoldenError as error:
        return [Check("golden outputs", False, str(error))]
    positions = sum(len(entry.positions) for entry in found.entries)
    detail = f"{positions} positions by {found.by}" if found.bounds else found.by
    return [Check("golden outputs", True, detail)]
