"""The script of the init container, run as the process that it is there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemotron_deploy import runtime

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


def make_bundle(root: Path) -> Path:
    files = {}
    for name, content in CONTENT.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (root / "bundle.json").write_text(json.dumps({"files": files}))
    return root


def run(verb: str, directory: Path) -> tuple[int, str]:
    command = [sys.executable, str(SCRIPT), verb, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_right_bundle_passes(bundle: Path) -> None:
    assert run("verify", bundle) == (0, f"{bundle}: complete, all digests match\n")


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
    assert said in output
    assert name in output or case == "no record"


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        {"files": []},
        {"files": {}},
        {"files": {"checkpoint/../../x": {"sha256": "", "bytes": 0}}},
        {"files": {"checkpoint/config.json": {"bytes": 0}}},
        {"files": {"checkpoint/config.json": 7}},
        {"files": {"checkpoint/config.json": {"sha256": "0" * 64, "bytes": 2}}},
    ],
)
def test_record_that_is_none_is_refused(bundle: Path, record: object) -> None:
    (bundle / "bundle.json").write_text(json.dumps(record))
    status, output = run("verify", bundle)
    assert status == 1
    assert f"{bundle}/bundle.json: " in output


def test_install_puts_a_copied_bundle_into_place(tmp_path: Path) -> None:
    make_bundle(tmp_path / ".incoming")
    assert run("install", tmp_path)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert run("verify", tmp_path / "bundle")[0] == 0


def test_install_takes_the_second_copy_that_landed_inside_a_broken_one(tmp_path: Path) -> None:
    make_bundle(tmp_path / ".incoming")
    (tmp_path / ".incoming/checkpoint/model.safetensors").unlink()
    make_bundle(tmp_path / ".incoming/nano-h100-int4")
    assert run("install", tmp_path)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_install_replaces_an_older_bundle(tmp_path: Path) -> None:
    flip(make_bundle(tmp_path / "bundle") / "checkpoint/model.safetensors")
    make_bundle(tmp_path / ".incoming")
    assert run("install", tmp_path)[0] == 0
    assert run("verify", tmp_path / "bundle")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_install_leaves_the_present_bundle_where_the_copy_is_wrong(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    flip(make_bundle(tmp_path / ".incoming") / "checkpoint/model.safetensors")
    status, output = run("install", tmp_path)
    assert status == 1
    assert "model.safetensors: digest differs" in output
    assert run("verify", tmp_path / "bundle")[0] == 0


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`wait` on the claim `tmp_path`."""
    pod = {"POD_NAME": "pod-1", "POD_NAMESPACE": "space", "BUNDLE_NAME": "nano"}
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "wait", tmp_path, "--poll", "0.05"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **pod},
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


def test_wait_tells_how_to_fill_the_claim_and_those_commands_do(
    waiting: subprocess.Popen[str], tmp_path: Path
) -> None:
    output = read_until(waiting, "kubectl exec")
    scope = "--namespace space --container check-bundle"
    assert f"kubectl cp {scope} dist/nano pod-1:{tmp_path}/.incoming" in output
    assert f"kubectl exec {scope} pod-1 -- python3 {SCRIPT} install {tmp_path}" in output
    make_bundle(tmp_path / ".incoming")
    time.sleep(0.3)
    assert waiting.poll() is None, "a copy that nobody installed must not be served"
    assert run("install", tmp_path)[0] == 0
    assert waiting.wait(DEADLINE_S) == 0


def test_wait_names_the_damage_and_ends_once_it_is_repaired(
    waiting: subprocess.Popen[str], tmp_path: Path
) -> None:
    flip(make_bundle(tmp_path / "made") / "checkpoint/model.safetensors")
    (tmp_path / "made").rename(tmp_path / "bundle")
    read_until(waiting, "model.safetensors: digest differs")
    shutil.move(tmp_path / "bundle", tmp_path / "made")
    make_bundle(tmp_path / "made").rename(tmp_path / "bundle")
    assert waiting.wait(DEADLINE_S) == 0


def test_wait_ends_at_sigterm(waiting: subprocess.Popen[str]) -> None:
    """As process 1 of a container it would otherwise outlive the pod's grace period."""
    read_until(waiting, "kubectl exec")
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(DEADLINE_S) == 143
