"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from nemotron_deploy.model.catalog import TINY

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does, before torch is there
if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # a worker for each core: torch's threads would only compete
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test asks the real hub for anything; those of `hub/` have a stand-in.
os.environ["HF_HUB_OFFLINE"] = "1"

# Shared machines are slow at times; no test is about speed.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


DEADLINE_S = 300
"""What a busy machine may take for anything that tests wait for."""


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], object], str], None]:
    """Waits until a condition holds; fails with the text where it does not come to hold."""

    def wait(condition: Callable[[], object], otherwise: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, otherwise
            time.sleep(0.05)

    return wait


@pytest.fixture
def golden() -> Callable[[Path, str], None]:
    """Compares text with a golden file, or rewrites the file when UPDATE_GOLDEN=1 is set."""

    def compare(path: Path, text: str) -> None:
        if os.environ.get("UPDATE_GOLDEN") == "1":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{path} differs; see UPDATE_GOLDEN=1"

    return compare


@pytest.fixture
def tiny_copy(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint that a test may damage."""
    return Path(shutil.copytree(TINY, tmp_path / "checkpoint"))


@pytest.fixture(scope="session")
def int4_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint in INT4, plainly rounded. Not to be changed."""
    from nemotron_deploy.model.checkpoint import Checkpoint
    from nemotron_deploy.model.recipes import CONSERVATIVE
    from nemotron_deploy.quantize.stream import quantize

    out = tmp_path_factory.mktemp("int4") / "checkpoint"
    out.mkdir()
    quantize(Checkpoint.open(TINY), CONSERVATIVE["int4"], out)
    return out


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all worker processes of a session share, and no other session."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    (folder / "shared").mkdir(exist_ok=True)
    return folder / "shared"


@pytest.fixture(scope="session", autouse=True)
def _caches(session_folder: Path) -> Iterator[None]:
    """Compiled kernels are shared by all tests of a session and by none of another."""
    folder = session_folder / "caches"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEMO_DEPLOY_CACHE", str(folder / "nemo-deploy"))
        patch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))
        yield


@pytest.fixture(scope="session")
def built(session_folder: Path) -> Callable[[str], Path]:
    """Gives the bundle of `tiny` for an H100 in a format, built once. Not to be changed."""
    from nemotron_deploy.api.build import make, prepare
    from nemotron_deploy.model.spec import Workload

    @functools.cache
    def once(quant: str) -> Path:
        out = session_folder / f"tiny-h100-{quant}"
        with (session_folder / f"{out.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            make(prepare("tiny", "h100", quant, Workload(context=4096), out))
        return out

    return once


@pytest.fixture
def built_copy(built: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Gives a copy of the bundle in a format that a test may change."""

    def copy(quant: str) -> Path:
        original = built(quant)
        return Path(shutil.copytree(original, tmp_path / "copies" / original.name))

    return copy


@pytest.fixture(scope="session")
def record_again() -> Callable[..., None]:
    """Lets a bundle's record, if it has one, say of some files what they are now."""

    def record(bundle: Path, *names: str) -> None:
        file = bundle / "bundle.json"
        if not file.exists():
            return
        content = json.loads(file.read_text())
        for name in names:
            content["files"].pop(name, None)
            if (bundle / name).exists():
                data = (bundle / name).read_bytes()
                row = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
                content["files"][name] = row
        file.write_text(json.dumps(content))

    return record


@pytest.fixture
def exchange_experts(record_again: Callable[..., None]) -> Callable[[Path], None]:
    """Puts two experts of a bundle's checkpoint in each other's place: every tensor stays
    well-formed, the record says so, and the model is another."""

    def exchange(bundle: Path) -> None:
        from safetensors.torch import load_file, save_file

        shard = bundle / "checkpoint" / "model.safetensors"
        tensors = load_file(shard)
        prefix = "backbone.layers.1.mixer.experts."
        for name in [name for name in tensors if name.startswith(f"{prefix}0.")]:
            other = name.replace(f"{prefix}0.", f"{prefix}1.")
            tensors[name], tensors[other] = tensors[other], tensors[name]
        save_file(tensors, shard)
        record_again(bundle, "checkpoint/model.safetensors")

    return exchange
