"""Copying a bundle to a claim: the real receiver as a process, over connections that break."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy import runtime
from nemotron_deploy.core.bundle import Bundle, MadeFrom, building
from nemotron_deploy.core.errors import BadInputError, CheckFailedError
from nemotron_deploy.core.progress import Advance
from nemotron_deploy.core.record import Header
from nemotron_deploy.k8s.weights import transfer
from nemotron_deploy.k8s.weights.transfer import Arrival, Connect, Place, copy
from nemotron_deploy.runtime.check_bundle import ProgressLines, problems
from nemotron_deploy.runtime.receive import BOOTSTRAP, MODULES

WEIGHTS = 3 << 20
CHUNK = 1 << 18

CUT = """
import subprocess, sys
limit = int(sys.argv[1])
child = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE)
while limit:
    data = sys.stdin.buffer.read1(min(limit, 65536))
    child.stdin.write(data)
    child.stdin.flush()
    limit -= len(data)
child.stdin.close()
child.wait()
sys.exit("connection reset by peer")
"""
"""A connection that breaks after so many bytes."""


class Recorded:
    """Progress that remembers its steps, and what each said was done."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, str]] = []
        self.done: dict[str, list[int]] = {}

    def step(self, name: str, total: int = 0, unit: str = "") -> Advance:
        self.steps.append((name, total, unit))
        done = self.done.setdefault(name, [])
        return lambda count, note="", /: done.append(count)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "CHUNK_BYTES", CHUNK)


@pytest.fixture(scope="module")
def weights() -> bytes:
    return os.urandom(WEIGHTS)


@pytest.fixture
def bundle(tmp_path: Path, weights: bytes) -> Bundle:
    header = Header(name="x-h100-int4", model_name="x", asked={"gpu": "h100", "quant": "int4"})

    def make(dest: Path) -> None:
        (dest / "sub").mkdir()
        (dest / "sub" / "weights.bin").write_bytes(weights)
        (dest / "empty").touch()
        (dest / "config.json").write_text("{}")

    with building(tmp_path / "bundle", header) as made:
        for stage in ("checkpoint", "engine", "model_repository", "k8s"):
            made.run_stage(stage, MadeFrom("encoding 1", stage), make)
    return Bundle.open(tmp_path / "bundle")


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    folder = tmp_path / "claim"
    folder.mkdir()
    return folder


def start(*command: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)


def whole() -> subprocess.Popen[bytes]:
    """A connection that lasts, to a receiver that cannot import this project."""
    return start(sys.executable, "-I", "-S", "-c", BOOTSTRAP)


def broken(*limits: int) -> Connect:
    """Connections that break after so many bytes each, and then one that lasts."""
    left = list(limits)

    def connect() -> subprocess.Popen[bytes]:
        if not left:
            return whole()
        limit = str(left.pop(0))
        return start(sys.executable, "-c", CUT, limit, sys.executable, "-I", "-c", BOOTSTRAP)

    return connect


def send(bundle: Bundle, claim: Path, connect: Connect = whole, **others: Any) -> Arrival:
    progress = others.pop("progress", Recorded())
    place = Place(str(claim), others.pop("digest", bundle.files_digest), "files", keep=2)
    return copy(bundle, place, connect, progress, pause=lambda seconds: None)


def served_bytes(bundle: Bundle) -> int:
    return sum(bundle.stage_bytes(stage) for stage in ("checkpoint", "engine", "model_repository"))


def assert_arrived(bundle: Bundle, claim: Path) -> None:
    target = claim / bundle.files_digest
    with ProgressLines(write=lambda _: None) as progress:
        assert problems(target, progress) == {}
    assert Bundle.open(target).files_digest == bundle.files_digest
    assert not list((claim / ".incoming").iterdir())
    assert (claim / ".used" / bundle.files_digest).exists()


def test_the_served_files_arrive_in_the_folder_that_the_digest_names(
    bundle: Bundle, claim: Path
) -> None:
    progress = Recorded()
    arrival = send(bundle, claim, progress=progress)
    assert arrival == Arrival(str(claim / bundle.files_digest), served_bytes(bundle), ())
    assert_arrived(bundle, claim)
    assert not (claim / bundle.files_digest / "k8s").exists()
    assert progress.steps[0] == ("push", served_bytes(bundle), "bytes")
    assert progress.done["push"][-1] == served_bytes(bundle)
    assert ("verifying", served_bytes(bundle), "bytes") in progress.steps


def test_a_connection_that_breaks_is_made_again_and_nothing_is_sent_twice(
    bundle: Bundle, claim: Path
) -> None:
    progress = Recorded()
    arrival = send(bundle, claim, broken(2_000_000, 100, 3_000_000), progress=progress)
    assert_arrived(bundle, claim)
    assert arrival.sent_bytes <= served_bytes(bundle)
    assert progress.done["push"] == sorted(progress.done["push"])


def test_a_second_run_goes_on_with_what_the_first_one_sent(bundle: Bundle, claim: Path) -> None:
    class KilledError(BaseException):
        """Stands for the process ending at this point."""

    def killed(seconds: float) -> None:
        raise KilledError

    place = Place(str(claim), bundle.files_digest, "files", keep=2)
    with pytest.raises(KilledError):
        copy(bundle, place, broken(5_000_000), Recorded(), pause=killed)
    arrival = send(bundle, claim)
    assert_arrived(bundle, claim)
    assert arrival.sent_bytes < served_bytes(bundle) - 3_000_000


def test_a_bundle_that_is_there_is_not_sent(bundle: Bundle, claim: Path) -> None:
    send(bundle, claim)
    assert send(bundle, claim).sent_bytes == 0
    assert_arrived(bundle, claim)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_of_a_bundle_that_is_there_and_damaged_one_file_is_sent(
    bundle: Bundle, claim: Path
) -> None:
    send(bundle, claim)
    damage(claim / bundle.files_digest / "engine/sub/weights.bin")
    assert send(bundle, claim).sent_bytes == WEIGHTS
    assert_arrived(bundle, claim)


@pytest.mark.parametrize(
    "left",
    ["other content", "too long", "a link"],
)
def test_what_is_wrong_on_the_claim_is_sent_again(
    bundle: Bundle, claim: Path, left: str, tmp_path: Path
) -> None:
    file = claim / ".incoming" / bundle.files_digest / "bundle" / "engine/sub/weights.bin"
    file.parent.mkdir(parents=True)
    if left == "a link":
        (tmp_path / "outside").write_text("outside")
        file.symlink_to(tmp_path / "outside")
    else:
        file.write_bytes(bytes(CHUNK if left == "other content" else WEIGHTS + 1))
    send(bundle, claim)
    assert_arrived(bundle, claim)
    assert left != "a link" or (tmp_path / "outside").read_text() == "outside"


def test_a_bundle_that_is_damaged_here_is_named_and_not_served(bundle: Bundle, claim: Path) -> None:
    file = bundle.path / "engine/sub/weights.bin"
    damage(file)
    with pytest.raises(CheckFailedError, match=rf"{file}: differs from bundle\.json"):
        send(bundle, claim)
    assert not (claim / bundle.files_digest).exists()


def test_older_bundles_are_deleted_first(bundle: Bundle, claim: Path) -> None:
    for number in (1, 2, 3):
        (claim / f"{number:064x}").mkdir()
        (claim / f"{number:064x}" / "bundle.json").write_text("{}")
        os.utime(claim / f"{number:064x}" / "bundle.json", (number, number))
    assert send(bundle, claim).deleted == (f"{1:064x}",)


def test_connections_that_never_last_are_given_up(bundle: Bundle, claim: Path) -> None:
    pauses: list[float] = []
    place = Place(str(claim), bundle.files_digest, "files", keep=2)
    with pytest.raises(BadInputError, match=r"broke 6 times in a row \(connection reset by peer\)"):
        copy(bundle, place, broken(*[20] * 9), Recorded(), pause=pauses.append)
    assert pauses == sorted(pauses)
    assert len(pauses) == 5


def test_a_pod_without_python_is_named(bundle: Bundle, claim: Path) -> None:
    with pytest.raises(BadInputError, match="python3: not found"):
        send(bundle, claim, lambda: start("sh", "-c", "echo python3: not found >&2; exit 127"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("size=4m", "the volume is too small: [0-9]+ bytes more are needed, [0-9]+ are free"),
        ("ro", "cannot be written: Read-only file system"),
    ],
)
def test_a_volume_that_does_not_do_is_one_message(
    bundle: Bundle, claim: Path, options: str, said: str
) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    script = f'mount -t tmpfs -o {options} tmpfs {claim}; exec "$@"'

    def connect() -> subprocess.Popen[bytes]:
        receiver = (sys.executable, "-I", "-c", BOOTSTRAP)
        return start("unshare", "--mount", "sh", "-c", script, "sh", *receiver)

    with pytest.raises(BadInputError, match=said):
        send(bundle, claim, connect)


def test_a_volume_that_fills_up_meanwhile_is_one_message(bundle: Bundle, claim: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    # There is room for the bytes, and none for so many files.
    script = f'mount -t tmpfs -o nr_inodes=8 tmpfs {claim}; exec "$@"'

    def connect() -> subprocess.Popen[bytes]:
        receiver = (sys.executable, "-I", "-c", BOOTSTRAP)
        return start("unshare", "--mount", "sh", "-c", script, "sh", *receiver)

    with pytest.raises(BadInputError, match="the volume is too small: No space left on device"):
        send(bundle, claim, connect)


@pytest.mark.parametrize("module", MODULES)
def test_what_runs_in_the_pod_is_python_3_8(module: str) -> None:
    source = Path(runtime.__file__).with_name(f"{module}.py").read_text("utf-8")
    ast.parse(source, feature_version=(3, 8))
