"""`fill`: making a bundle on a claim, killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nemotron_deploy.api.build import prepare
from nemotron_deploy.api.build_stages import Job
from nemotron_deploy.api.fill import fill
from nemotron_deploy.api.verify import verify
from nemotron_deploy.cli import run
from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.core.errors import BadInputError, RefusedError, UsageError
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.runtime.check_bundle import ProgressLines
from nemotron_deploy.runtime.claim import BUILDING

OPTIONS = ("--checkpoint", "tiny", "--gpu", "h100", "--quant", "bf16", "--context", "4096")
DEADLINE_S = 300


def bf16(out: Path) -> Job:
    return prepare("tiny", "h100", "bf16", Workload(context=4096), out)


def no_build(out: Path) -> Job:
    raise AssertionError("nothing is to be built")


@pytest.fixture(scope="module")
def digest(built: Callable[[str], Path]) -> str:
    return Bundle.open(built("bf16")).inputs_digest


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    folder = tmp_path / "claim"
    folder.mkdir()
    return folder


@pytest.fixture
def begun(built: Callable[[str], Path], claim: Path, digest: str) -> Path:
    """A claim on which a run was killed before its last step."""
    work = claim / BUILDING / digest / "bundle"
    shutil.copytree(built("bf16"), work)
    return claim


def flip(path: Path) -> None:
    """Change one byte and neither size nor modification time."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_what_a_killed_run_left_is_completed_and_put_in_place(begun: Path, digest: str) -> None:
    lines: list[str] = []
    with ProgressLines(write=lines.append) as progress:
        result = fill(begun, digest, bf16, progress=progress)
    assert (result.bundle, result.made) == (begun / digest, True)
    assert Bundle.open(begun / digest).inputs_digest == digest
    assert not verify(begun / digest).failed
    assert not any((begun / BUILDING).iterdir())
    steps = [json.loads(line.removeprefix("nemo-deploy progress "))["step"] for line in lines]
    assert steps == ["verifying"]  # nothing was made twice


def test_a_bundle_that_is_there_is_checked_and_nothing_else(begun: Path, digest: str) -> None:
    fill(begun, digest, bf16)
    (begun / ".used" / digest).unlink()
    result = fill(begun, digest, no_build)
    assert not result.made
    assert (begun / ".used" / digest).exists()


def test_a_damaged_bundle_is_made_again_in_part(begun: Path, digest: str) -> None:
    fill(begun, digest, bf16)
    made = (begun / digest / "checkpoint/model.safetensors").stat().st_mtime_ns
    flip(begun / digest / "engine/golden.json")
    assert fill(begun, digest, bf16).made
    assert not verify(begun / digest).failed
    assert (begun / digest / "checkpoint/model.safetensors").stat().st_mtime_ns == made


def test_a_bundle_whose_record_is_damaged_is_replaced(claim: Path, digest: str) -> None:
    (claim / digest).mkdir()
    (claim / digest / "bundle.json").write_text('{"schema": ')
    assert fill(claim, digest, bf16).made
    assert not verify(claim / digest).failed


def test_older_bundles_are_deleted_and_the_last_used_stay(begun: Path, digest: str) -> None:
    for number in (1, 2, 3):
        (begun / f"{number:064x}").mkdir()
        (begun / f"{number:064x}" / "bundle.json").write_text("{}")
        os.utime(begun / f"{number:064x}" / "bundle.json", (number, number))
    assert fill(begun, digest, bf16, keep=2).deleted == (f"{1:064x}",)
    assert {path.name for path in begun.glob("[0-9a-f]*")} == {digest, f"{2:064x}", f"{3:064x}"}


def test_another_bundle_than_the_manifests_name_is_refused_before_it_is_made(
    begun: Path, digest: str
) -> None:
    other = "ab" * 32
    with pytest.raises(RefusedError) as refused:
        fill(begun, other, bf16, made_by="nemo-deploy 9.9.9")
    assert f"--digest {other} (rule: same-bundle)" in str(refused.value)
    assert f"makes the bundle {digest}; the manifests were made by nemo-deploy 9.9.9" in str(
        refused.value
    )
    assert not (begun / other).exists()
    assert not (begun / BUILDING / other).exists()


@pytest.mark.parametrize("wrong", ["", "ab", "AB" * 32, "../" + "a" * 61])
def test_what_is_no_digest_is_refused(claim: Path, wrong: str) -> None:
    with pytest.raises(UsageError, match="must be 64 hex digits"):
        fill(claim, wrong, no_build)


def test_a_claim_that_is_not_mounted_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="a claim must be mounted there"):
        fill(tmp_path / "nowhere", "ab" * 32, no_build)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--gpu", "h101"], 2, "h101"),
        (["--gpus", "h100"], 2, "h100"),
        (["--gpu", "h100", "--out", "x"], 2, "--out behind -- has no meaning"),
        (["--gpu", "h100", "--platform", "gke"], 2, "--platform behind -- has no meaning"),
        (["--gpu", "h100", "--json"], 2, "--json behind -- has no meaning"),
        (["--gpu", "h100", "--checkpoint", "nobody/no-model"], 4, "nobody/no-model"),
    ],
)
def test_options_of_the_build_are_checked_as_there(
    claim: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert run(["fill", str(claim), "--digest", "ab" * 32, "--", "--quant", "bf16", *words]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("error: ") == 1
    assert captured.out == ""


def command(claim: Path, digest: str) -> list[str]:
    program = [sys.executable, "-m", "nemotron_deploy", "fill", str(claim), "--digest", digest]
    return [*program, "--", *OPTIONS]


def test_a_terminated_run_is_resumed(claim: Path, digest: str) -> None:
    process = subprocess.Popen(
        command(claim, digest), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if '"step": "golden"' in line:  # the checkpoint is made
            process.send_signal(signal.SIGTERM)
            break
    _, error = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143, error
    assert "Finished stages are kept" in error
    again = subprocess.run(
        command(claim, digest), capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == f"{claim / digest}: made"
    assert '"step": "golden"' in again.stdout
    assert '"step": "quantize"' not in again.stdout


MOUNTS = {
    "read-only": ("mount -t tmpfs -o ro tmpfs CLAIM", "the volume is read-only"),
    "too small": ("mount -t tmpfs -o size=2m tmpfs CLAIM", "the volume is too small"),
    "full": (
        "mount -t tmpfs -o size=2m tmpfs CLAIM && head -c 3M /dev/zero > CLAIM/x 2>/dev/null; :",
        "the volume is too small",
    ),
}


@pytest.mark.parametrize("volume", MOUNTS)
def test_a_volume_that_does_not_do_is_one_message(claim: Path, digest: str, volume: str) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    mount, said = MOUNTS[volume]
    script = f'{mount.replace("CLAIM", str(claim))}; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command(claim, digest)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith(f"error: {claim}: {said}")
    assert done.stderr.count("\n") == 1
