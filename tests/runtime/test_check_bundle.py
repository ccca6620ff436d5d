"""The script of the init container, run as the process that it is there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy import runtime
from nemotron_deploy.runtime.check_bundle import DIGESTS, ProgressLines

SCRIPT = Path(runtime.__file__).with_name("check_bundle.py").resolve()
CONTENT = {
    "checkpoint/config.json": b"{}",
    "checkpoint/model.safetensors": os.urandom(5_000_000),
    "engine/engine.json": b"{}",
    "model_repository/nano/config.pbtxt": b'backend: "python"',
    "model_repository/nano/1/model.py": b"",
    "k8s/kustomization.yaml": b"resources: []",
}
DEADLINE_S = 30


MADE_FOR = {"model": "nano", "gpu": "h100", "quant": "int4"}


def make_bundle(root: Path, **made_for: str) -> Path:
    files = {}
    for name, content in CONTENT.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    asked = {**MADE_FOR, **made_for}
    record = {
        "model_name": asked.pop("model"),
        "asked": asked,
        "complete": True,
        "stages": {
            stage: {"maker": "sources 1", "inputs": asked["quant"], "made_by": "nemo-deploy 1"}
            for stage in ("checkpoint", "engine", "model_repository", "k8s")
        },
        "files": files,
    }
    (root / "bundle.json").write_text(json.dumps(record))
    return root


def digest(bundle: Path, kind: str = "files") -> str:
    return DIGESTS[kind](json.loads((bundle / "bundle.json").read_text()))


def put(claim: Path, **made_for: str) -> Path:
    """A bundle where `wait` looks for it."""
    bundle = make_bundle(claim / "made", **made_for)
    return bundle.rename(claim / digest(bundle))


def options(digest: str, **others: str) -> list[str]:
    return [f"--{name}={value}" for name, value in {"digest": digest, **MADE_FOR, **others}.items()]


def run(verb: str, directory: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(SCRIPT), verb, str(directory), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_right_bundle_passes(bundle: Path) -> None:
    for more in ([], options(digest(bundle)), options(digest(bundle, "inputs"), kind="inputs")):
        status, output = run("verify", bundle, *more)
        assert status == 0, output
        assert output.splitlines()[-1] == f"{bundle}: complete, all digests match"


@pytest.mark.parametrize("kind", ["files", "inputs"])
@pytest.mark.parametrize("other", ["model", "gpu", "quant", "digest"])
def test_another_bundle_is_refused_by_name(bundle: Path, kind: str, other: str) -> None:
    expected = {**MADE_FOR, "digest": digest(bundle, kind), other: "0" * 64}
    status, output = run("verify", bundle, f"--kind={kind}", *options(**expected))
    assert status == 1
    assert output == (
        f"NOT usable: {bundle}: another {other}: it is nano for h100 in int4, {kind} digest "
        f"{digest(bundle, kind)}; expected is {expected['model']} for {expected['gpu']} in "
        f"{expected['quant']}, {kind} digest {expected['digest']}\n"
    )


def test_every_difference_of_another_bundle_is_named(bundle: Path) -> None:
    status, output = run("verify", bundle, *options("0" * 64, gpu="a100", quant="fp8"))
    assert status == 1
    assert f"{bundle}: another gpu and quant and digest: it is nano for h100 in int4" in output


def test_an_incomplete_bundle_is_refused(bundle: Path) -> None:
    record = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**record, "complete": False}))
    status, output = run("verify", bundle)
    assert status == 1
    assert "incomplete, its build did not end" in output


def progress_lines(output: str) -> list[dict[str, Any]]:
    prefix = "nemo-deploy progress "
    lines = [line for line in output.splitlines() if line.startswith(prefix)]
    return [json.loads(line.removeprefix(prefix)) for line in lines]


def test_the_check_says_how_much_it_will_read(bundle: Path) -> None:
    _, output = run("verify", bundle)
    served = sum(len(data) for name, data in CONTENT.items() if not name.startswith("k8s/"))
    first = {"step": "verifying", "done": None, "total": served, "unit": "bytes"}
    assert progress_lines(output)[0] == {**first, "per_second": None, "seconds_left": None}


def test_progress_is_reported_with_rate_and_time_left() -> None:
    lines: list[str] = []
    reported = threading.Event()

    def write(line: str) -> None:
        lines.append(line)
        if len(lines) > 2:
            reported.set()

    with ProgressLines(every_s=0.01, write=write) as progress:
        advance = progress.step("checkpoint", 100, "bytes")
        advance(40)  # what a run before this one had done
        advance(60)
        assert reported.wait(DEADLINE_S)
    last = progress_lines(lines[-1])[0]
    assert [last[key] for key in ("step", "done", "total", "unit")] == [
        "checkpoint", 60, 100, "bytes",
    ]  # fmt: skip
    assert last["per_second"] > 0
    assert last["seconds_left"] == pytest.approx(40 / last["per_second"], abs=1)


def test_what_is_not_served_may_differ(bundle: Path) -> None:
    (bundle / "k8s/kustomization.yaml").write_text("resources: [mine]")
    (bundle / "report").mkdir()
    (bundle / "report/load.json").write_text("{}")
    (bundle / "model_repository/nano/1/__pycache__").mkdir()
    (bundle / "model_repository/nano/1/__pycache__/model.pyc").write_bytes(b"x")
    assert run("verify", bundle)[0] == 0


def flip(path: Path) -> None:
    """Change one byte and neither size nor modification time."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def link_out(path: Path) -> None:
    target = path.parent.parent.parent / "outside"
    shutil.move(path, target)
    path.symlink_to(target)


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "flipped bit": ("checkpoint/model.safetensors", flip, "digest differs"),
    "truncated": ("checkpoint/model.safetensors", lambda p: os.truncate(p, 100), "has 100 bytes"),
    "missing": ("engine/engine.json", Path.unlink, "missing"),
    "link": ("checkpoint/config.json", link_out, "symbolic link"),
    "not listed": ("checkpoint/extra.safetensors", Path.touch, "not in bundle.json"),
    "pipe": (
        "engine/engine.json",
        become_a_pipe,
        "not a regular file",
    ),
    "cut record": ("bundle.json", lambda p: os.truncate(p, 40), "bundle.json"),
    "no record": ("bundle.json", Path.unlink, "no bundle"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_named(bundle: Path, case: str) -> None:
    name, damage, said = DAMAGES[case]
    damage(bundle / name)
    status, output = run("verify", bundle)
    assert status == 1
    reason = output.splitlines()[-1]
    assert reason.startswith("NOT usable: ")
    assert said in reason
    assert name in reason or case == "no record"


def test_the_last_line_names_one_damage_and_counts_the_others(bundle: Path) -> None:
    flip(bundle / "checkpoint/model.safetensors")
    (bundle / "engine/engine.json").unlink()
    status, output = run("verify", bundle)
    assert status == 1
    lines = [line for line in output.splitlines() if not line.startswith("nemo-deploy progress")]
    assert lines == [
        f"{bundle}/checkpoint/model.safetensors: digest differs (damaged, or changed since the "
        "build)",
        f"NOT usable: {bundle}/engine/engine.json: missing (and 1 more, above)",
    ]


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        {"files": []},
        {"files": {}},
        {"files": {"checkpoint/../../x": {"sha256": "", "bytes": 0}}},
        {"files": {"checkpoint/config.json": {"bytes": 0}}},
        {"files": {"checkpoint/config.json": {"sha256": "0" * 64, "bytes": "2"}}},
        {"files": {"checkpoint/config.json": 7}},
        {"files": {"checkpoint/config.json": {"sha256": "0" * 64, "bytes": 2}}},
    ],
)
def test_record_that_is_none_is_refused(bundle: Path, record: object) -> None:
    (bundle / "bundle.json").write_text(json.dumps(record))
    status, output = run("verify", bundle)
    assert status == 1
    assert f"{bundle}/bundle.json: " in output


@pytest.fixture
def wanted(tmp_path: Path) -> str:
    """The digest of the bundle that is waited for."""
    return digest(make_bundle(tmp_path / "built"))


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    folder = tmp_path / "claim"
    folder.mkdir()
    return folder


@pytest.fixture
def waiting(claim: Path, wanted: str) -> Iterator[subprocess.Popen[str]]:
    """`wait` on the claim."""
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "wait", claim, "--poll", "0.05", *options(wanted)],
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Output up to the line that has `text`; ends with the process."""
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return output
    raise AssertionError(f"ended without {text!r}: {output}")


def test_wait_ends_once_the_bundle_is_there_and_notes_its_use(
    waiting: subprocess.Popen[str], claim: Path, wanted: str
) -> None:
    output = read_until(waiting, '{"step": "waiting"')
    assert f"nano for h100 in int4, files digest {wanted}" in output
    assert "nemo-deploy push BUNDLE" in output
    make_bundle(claim / ".incoming").rename(claim / wanted)
    read_until(waiting, "complete, all digests match")
    assert waiting.wait(DEADLINE_S) == 0
    assert [path.name for path in (claim / ".used").iterdir()] == [wanted]


def test_wait_says_who_makes_the_bundle_and_what_the_claim_holds(claim: Path) -> None:
    other = put(claim, quant="fp8")
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "wait", claim, *options("ab" * 32, kind="inputs")],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        output = read_until(process, '{"step": "waiting"')
    finally:
        process.kill()
        process.communicate()
    assert "-fill-ababababab" in output
    made = digest(other, "inputs")
    assert f"{claim} holds nano for h100 in fp8, inputs digest {made}" in output


def test_wait_goes_on_without_a_bundle_in_the_folder_that_kubelet_makes(
    waiting: subprocess.Popen[str], claim: Path, wanted: str
) -> None:
    (claim / wanted).mkdir()
    read_until(waiting, '{"step": "waiting"')
    make_bundle(claim / ".incoming").rename(claim / wanted)
    assert waiting.wait(DEADLINE_S) == 0


def test_wait_fails_at_once_where_the_bundle_is_another_one(claim: Path, wanted: str) -> None:
    put(claim, quant="fp8")
    make_bundle(claim / wanted, quant="fp8")
    status, output = run("wait", claim, *options(wanted))
    assert status == 1
    assert f"NOT usable: {claim / wanted}: another quant: it is nano for h100 in fp8" in output
    assert not (claim / ".used").exists()


def test_wait_fails_at_once_where_the_bundle_is_damaged(claim: Path) -> None:
    bundle = put(claim)
    flip(bundle / "checkpoint/model.safetensors")
    status, output = run("wait", claim, *options(bundle.name))
    assert status == 1
    assert "model.safetensors: digest differs" in output.splitlines()[-1]
    assert not (claim / ".used").exists()


def test_a_claim_that_cannot_be_written_is_served_all_the_same(claim: Path) -> None:
    bundle = put(claim)
    (claim / ".used").touch()  # no folder can be made there
    status, output = run("wait", claim, *options(bundle.name))
    assert status == 0
    assert "the time of use could not be noted" in output


def test_a_volume_that_cannot_be_read_is_named_with_the_user_who_tried(claim: Path) -> None:
    too_long = "a" * 300  # a name that no file system takes: an error that root gets, too
    code, output = run("wait", claim, "--digest", too_long)
    assert code == 1
    last = output.splitlines()[-1]
    assert last.startswith(f"NOT usable: {claim}/aaa")
    assert f"File name too long; this runs as user {os.getuid()}" in last


def test_wait_ends_at_sigterm(waiting: subprocess.Popen[str]) -> None:
    """As process 1 of a container it would otherwise outlive the pod's grace period."""
    read_until(waiting, '{"step": "waiting"')
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(DEADLINE_S) == 143
