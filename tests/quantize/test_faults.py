"""What goes wrong while a checkpoint is quantized: one message, nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemotron_deploy.api import quality
from nemotron_deploy.api.quantize import quantize_source as command
from nemotron_deploy.api.quantize_options import options_for
from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.core.files import PARTIAL
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.quantize.layerwise import Layer
from nemotron_deploy.quantize.stream import Summary, quantize

SHARDS = 6
EXPERT = "backbone.layers.1.mixer.experts.0.up_proj.weight"
KILLING = Path(__file__).parent / "killing.py"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """`tiny` in several shards."""
    folder = Path(shutil.copytree(TINY, tmp_path / "sharded"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(SHARDS):
        shard = f"model-{number + 1:05}-of-{SHARDS:05}.safetensors"
        part = names[number::SHARDS]
        save_file({name: tensors[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results" / "out"


@pytest.fixture(autouse=True)
def _weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "RUN_BELOW", 0)


def run(checkpoint: Path, out: Path) -> None:
    command(str(checkpoint), options_for(CONSERVATIVE["int4"], smooth=False), out)


def change(checkpoint: Path, name: str, edit: Callable[[torch.Tensor], None]) -> Path:
    """Edit one tensor in its shard; gives the shard."""
    shard = Checkpoint.open(checkpoint).tensors[name].shard
    tensors = load_file(shard)
    edit(tensors[name])
    save_file(tensors, shard)
    return shard


def nothing_half_written(out: Path) -> None:
    """At most whole shards wait in the resumable directory."""
    assert not out.exists()
    for path in out.parent.iterdir() if out.parent.exists() else ():
        assert path.name == f"{PARTIAL}{out.name}"
        assert {item.name for item in path.iterdir()} == {"inputs", "content", "state"}
        assert {item.name for item in (path / "state").iterdir()} <= {"shards.json"}
        for shard in (path / "content").iterdir():
            load_file(shard)


def test_killed_at_random_points_and_run_again(sharded: Path, tmp_path: Path) -> None:
    work = tmp_path / "killed"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, str(KILLING), str(sharded), str(work), "60", "7"],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert seen["killed"] == 60
    assert seen["completed"] >= 5
    stages = [name for name in seen if name.startswith("left with")]
    assert len(stages) >= 4, f"kills fell into few places: {seen}"


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: writing more fails as on a full disk (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_is_too_small_is_seen_before_work_begins(sharded: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount")
    try:
        with pytest.raises(BadInputError, match=r"MB are needed here and 1\.0 MB are free"):
            run(sharded, disk / "out")
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_is_named_with_the_file(sharded: Path, out: Path) -> None:
    with files_up_to(100_000), pytest.raises(BadInputError, match=r"\.safetensors: no room for"):
        run(sharded, out)
    nothing_half_written(out)
    run(sharded, out)
    assert Checkpoint.open(out).is_quantized


def test_a_shard_that_vanishes(sharded: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    victim = checkpoint.shards[3]
    victim.unlink()
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(BadInputError, match=f"{victim.name}: this shard is missing"):
        quantize(checkpoint, CONSERVATIVE["int4"], target)
    assert all(load_file(path) for path in target.iterdir())


def test_a_shard_that_is_exchanged_after_it_was_checked(sharded: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    victim = checkpoint.shards[2]
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content)
    with pytest.raises(BadInputError, match=f"{victim.name}: changed while it was in use"):
        quantize(checkpoint, CONSERVATIVE["int4"], tmp_path)


def test_a_shard_that_shrinks_while_it_is_read(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(sharded)
    victim = checkpoint.shards[0]
    original = Checkpoint.require_unchanged

    def then_cut(self: Checkpoint, shard: Path, descriptor: int) -> None:
        original(self, shard, descriptor)
        if shard == victim:
            os.truncate(victim, victim.stat().st_size // 2)

    monkeypatch.setattr(Checkpoint, "require_unchanged", then_cut)
    with pytest.raises(BadInputError, match=f"{victim.name}: ends in the middle of tensor"):
        quantize(checkpoint, CONSERVATIVE["int4"], tmp_path)


def test_a_flipped_bit_is_seen_where_hashes_are_known(sharded: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    hashes = {s.name: hashlib.sha256(s.read_bytes()).hexdigest() for s in checkpoint.shards}
    good = tmp_path / "good"
    good.mkdir()
    quantize(checkpoint, CONSERVATIVE["int4"], good, verify_sha256=hashes)
    victim = checkpoint.shards[4]
    content = bytearray(victim.read_bytes())
    content[-100] ^= 1
    victim.write_bytes(content)
    bad = tmp_path / "bad"
    bad.mkdir()
    with pytest.raises(BadInputError, match=rf"{victim.name}: its SHA-256 is .*damaged"):
        quantize(Checkpoint.open(sharded), CONSERVATIVE["int4"], bad, verify_sha256=hashes)
    assert not (bad / victim.name).exists(), "a shard was written from damaged bytes"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (EXPERT, float("nan"), "NaN or infinite"),
        (EXPERT, float("-inf"), "NaN or infinite"),
        (EXPERT, 0.0, "is all zero, or too small"),
        ("backbone.layers.3.mixer.q_proj.weight", float("nan"), "NaN or infinite"),
        ("backbone.embeddings.weight", float("inf"), "NaN or infinite"),
        ("backbone.layers.0.mixer.dt_bias", float("nan"), "NaN or infinite"),
    ],
)
def test_weights_that_are_no_numbers(
    sharded: Path, out: Path, name: str, value: float, message: str
) -> None:
    def spoil(tensor: torch.Tensor) -> None:
        tensor.view(-1)[:64] = value

    shard = change(sharded, name, spoil)
    with pytest.raises(BadInputError, match=f"{shard.name}: tensor {name}.*{message}"):
        run(sharded, out)
    nothing_half_written(out)


def test_a_group_that_is_all_zero_is_named_by_its_place(sharded: Path, out: Path) -> None:
    def spoil(tensor: torch.Tensor) -> None:
        tensor[7, 64:128] = 0

    change(sharded, EXPERT, spoil)
    with pytest.raises(BadInputError, match="the group in row 7, columns 64 to 127, is all zero"):
        run(sharded, out)


def test_two_runs_into_one_directory(
    sharded: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    original = Checkpoint.require_unchanged

    def wait(self: Checkpoint, shard: Path, descriptor: int) -> None:
        entered.set()
        assert go_on.wait(30)
        original(self, shard, descriptor)

    monkeypatch.setattr(Checkpoint, "require_unchanged", wait)
    first = threading.Thread(target=run, args=(sharded, out))
    first.start()
    try:
        assert entered.wait(30)
        with pytest.raises(BadInputError, match=f"{out}: another nemo-deploy is writing here"):
            run(sharded, out)
    finally:
        go_on.set()
        first.join()
    assert Checkpoint.open(out).is_quantized


def test_what_is_finished_is_not_done_again(sharded: Path, out: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(sharded)
    victim = checkpoint.shards[-1]
    content = victim.read_bytes()
    times = victim.stat()
    target, state = tmp_path / "target", tmp_path / "state"
    target.mkdir()
    state.mkdir()

    def attempt() -> Summary:
        return quantize(Checkpoint.open(sharded), CONSERVATIVE["int4"], target, state=state)

    victim.write_bytes(content[:-2] + b"\xff\xff")  # NaN in its last tensor
    with pytest.raises(BadInputError, match="NaN"):
        attempt()
    victim.write_bytes(content)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    finished = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    summary = attempt()
    assert summary.kept_shards == len(finished) >= SHARDS - 2
    assert all((target / name).stat().st_mtime_ns == when for name, when in finished.items())
    whole = tmp_path / "whole"
    whole.mkdir()
    plain = quantize(Checkpoint.open(sharded), CONSERVATIVE["int4"], whole)
    assert summary.errors == plain.errors
    for path in whole.iterdir():
        assert path.read_bytes() == (target / path.name).read_bytes()


def test_calibration_is_not_repeated_when_only_writing_failed(
    sharded: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemotron_deploy.quantize import calibrate

    passed: list[int] = []
    original = calibrate._one_layer

    def counted(layer: Layer, *rest: Any) -> None:
        passed.append(layer.index)
        original(layer, *rest)

    monkeypatch.setattr(calibrate, "_one_layer", counted)
    options = options_for(CONSERVATIVE["int4"])
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(os, "posix_fallocate", full)  # stands for a full disk
        with pytest.raises(BadInputError, match="no room for"):
            command(str(sharded), options, out)
    layers = len(Checkpoint.open(sharded).model.pattern)
    assert passed == list(range(layers))
    result = command(str(sharded), options, out)
    assert passed == list(range(layers)), "calibrated again"
    assert result.calibration is not None
    assert result.calibration.smoothing
