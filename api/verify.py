"""`verify`: checks that a bundle is as its build left it, and that all of it is well-formed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..core.bundle import Bundle
from ..core.checks import Check
from ..core.errors import NemoDeployError
from ..core.progress import Progress, Silent
from ..core.result import Result
from ..k8s.checks.findings import Finding
from ..model.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class VerifyResult(Result):
    """Every check of a bundle; `ok` says whether all of them passed. `findings` has what the checks
    of the manifests found, warnings included."""

    SCHEMA: ClassVar[int] = 1

    bundle: Path
    ok: bool
    checks: tuple[Check, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)


def verify(bundle: str | Path, *, progress: Progress | None = None) -> VerifyResult:
    """Check the bundle in the directory `bundle`; a failed check does not stop the others.

    Raises `BadInputError` for a directory without a bundle, and for a record (`bundle.json`) that
    is damaged or of a newer version.
    """
    from .. import k8s, triton_repo
    from ..build.engines.registry import check as check_engine

    opened = Bundle.open(Path(bundle))
    advance = (progress or Silent()).step("digests", opened.total_bytes, unit="bytes")
    checks = opened.verify_files(advance)
    for room, check, where in (
        ("checkpoint", _check_checkpoint, opened.checkpoint),
        ("engine", check_engine, opened.engine),
        ("golden outputs", _check_golden, opened.engine),
        ("model_repository", triton_repo.check, opened.repository),
    ):
        try:
            checks += check(where)
        except NemoDeployError as error:
            checks.append(Check(room, False, str(error)))
    findings: tuple[Finding, ...] = ()
    try:
        manifests = k8s.check(opened.k8s)
    except NemoDeployError as error:
        checks.append(Check("k8s", False, str(error)))
    else:
        checks += manifests.checks
        findings = manifests.findings
    ok = all(check.ok for check in checks)
    return VerifyResult(opened.path, ok, tuple(checks), findings)


def _check_checkpoint(path: Path) -> list[Check]:
    checkpoint = Checkpoint.open(path)
    detail = f"{len(checkpoint.tensors)} tensors, {checkpoint.bytes} bytes"
    return [Check("safetensors headers", True, detail)]


def _check_golden(engine: Path) -> list[Check]:
    from ..runtime.golden import FILE, GoldenError, Recording

    try:
        recording = Recording.read(engine / FILE)
    except GoldenError as error:
        return [Check("golden outputs", False, str(error))]
    text = recording.describe()
    return [Check("golden outputs", True, text if recording.bounds else f"not recorded: {text}")]
