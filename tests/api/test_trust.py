"""A bundle's code runs only when it is as recorded and as this version writes it, or is trusted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nemotron_deploy.api.trust import require_trusted
from nemotron_deploy.cli import run
from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.core.errors import BadInputError, CheckFailedError
from nemotron_deploy.core.record import RECORD_NAME
from nemotron_deploy.runtime import contract

MODEL = "model_repository/tiny/1/model.py"
COPIED = f"model_repository/tiny/1/{contract.PACKAGE}/sessions.py"
PLUGIN = "engine/plugin/nemo_deploy_experts/plugin/model.py"
CONFIG = "model_repository/tiny/config.pbtxt"


@pytest.fixture
def bundle(built_copy: Callable[[str], Path]) -> Path:
    """A copy of it that a test may change."""
    return built_copy("int4")


def append(path: Path, text: bytes = b"\n# edited\n") -> None:
    path.write_bytes(path.read_bytes() + text)


def trusted(bundle: Path, verify: str = "quick", trust_code: bool = False) -> tuple[str, ...]:
    return require_trusted(Bundle.open(bundle), verify, trust_code)


@pytest.mark.parametrize("verify", ["quick", "full"])
def test_a_bundle_as_it_was_built_may_run(bundle: Path, verify: str) -> None:
    assert trusted(bundle, verify) == ()


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", [MODEL, COPIED, PLUGIN, CONFIG])
def test_edited_code_needs_trust(
    bundle: Path, name: str, recorded: bool, record_again: Callable[..., None]
) -> None:
    append(bundle / name)
    if recorded:
        record_again(bundle, name)
    with pytest.raises(CheckFailedError, match=f"{name}: not the code that nemo-deploy .*--trust-"):
        trusted(bundle)
    assert trusted(bundle, trust_code=True) == (name,)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "model_repository/tiny/1/json.py",
        "model_repository/other/config.pbtxt",
        "engine/plugin/torch.py",
        "engine/plugin/nemo_deploy_experts/plugin/__pycache__/model.cpython-311.pyc",
    ],
)
def test_added_code_needs_trust(
    bundle: Path, name: str, recorded: bool, record_again: Callable[..., None]
) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"")
    if recorded:
        record_again(bundle, name)
    with pytest.raises(CheckFailedError, match="--trust-code"):
        trusted(bundle)
    assert trusted(bundle, trust_code=True) == (name,)


def test_removed_code_needs_trust(bundle: Path, record_again: Callable[..., None]) -> None:
    (bundle / COPIED).unlink()
    record_again(bundle, COPIED)
    with pytest.raises(CheckFailedError, match="--trust-code"):
        trusted(bundle)


def test_kernels_are_held_to_their_digests(bundle: Path) -> None:
    cubin = next(bundle.glob("engine/kernels/*/*.cubin"))
    data = bytearray(cubin.read_bytes())
    data[-1] ^= 1
    cubin.write_bytes(data)
    with pytest.raises(CheckFailedError, match=r"\.cubin: not the code"):
        trusted(bundle)


def test_damaged_weights_are_never_trusted(bundle: Path) -> None:
    weights = bundle / "checkpoint" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert trusted(bundle) == (), "quick does not read weights"
    with pytest.raises(CheckFailedError, match=r"model\.safetensors: not as recorded"):
        trusted(bundle, "full", trust_code=True)
    append(weights)
    with pytest.raises(CheckFailedError, match=r"model\.safetensors: not as recorded"):
        trusted(bundle, trust_code=True)


def _link_file(bundle: Path, elsewhere: Path) -> None:
    shutil.move(bundle / MODEL, elsewhere / "model.py")
    (bundle / MODEL).symlink_to(elsewhere / "model.py")


def _link_folder(bundle: Path, elsewhere: Path) -> None:
    shutil.move(bundle / "model_repository", elsewhere / "moved")
    (bundle / "model_repository").symlink_to(elsewhere / "moved")


def _pipe(bundle: Path, elsewhere: Path) -> None:
    os.mkfifo(bundle / "checkpoint" / "pipe")


@pytest.mark.parametrize("change", [_link_file, _link_folder, _pipe])
def test_links_and_pipes_are_not_followed(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory, change: Callable[[Path, Path], None]
) -> None:
    change(bundle, tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(CheckFailedError, match="symbolic link"):
        trusted(bundle, trust_code=True)


def test_paths_out_of_the_bundle_are_not_looked_at(bundle: Path) -> None:
    content = json.loads((bundle / RECORD_NAME).read_text())
    content["files"]["checkpoint/../../outside"] = {"sha256": "0", "bytes": 1}
    content["model_name"] = "../../outside"
    (bundle / RECORD_NAME).write_text(json.dumps(content))
    (bundle.parent / "outside").mkdir()
    os.mkfifo(bundle.parent / "outside" / "config.pbtxt")  # reading it would wait for ever
    with pytest.raises(BadInputError, match="is not a file of a bundle"):
        trusted(bundle, trust_code=True)


@pytest.mark.parametrize("command", ["serve", "warmup", "loadtest"])
def test_every_command_that_runs_a_bundle_asks(
    bundle: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    append(bundle / MODEL)
    assert run([command, str(bundle)]) == 5
    said = capsys.readouterr().err
    assert MODEL in said
    assert "--trust-code" in said
    assert run([command, str(bundle), "--verify", "deep"]) == 2


def test_trusted_code_is_named(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append(bundle / MODEL)
    cache = str(tmp_path / "cache")
    assert run(["warmup", str(bundle), "--cache", cache, "--trust-code"]) == 0
    assert "trusted (--trust-code)" in capsys.readouterr().out
    assert run(["warmup", str(bundle), "--cache", cache, "--trust-code", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trusted_code"] == [MODEL]
