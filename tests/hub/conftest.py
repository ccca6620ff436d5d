"""Fixtures: the stand-in for the hub, serving a copy of `tiny` in several shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Final

import pytest
from safetensors.torch import load_file, save_file

from nemotron_deploy import cli
from nemotron_deploy.model.card_metadata import CARD
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.tests.hub.stand_in import StandIn

REPOSITORY: Final = "example/nemotron-h-small"
NAMES: Final = [f"model-{number:05}-of-00004.safetensors" for number in range(1, 5)]
INT4: Final = ("--quant", "int4", "--no-smooth")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str) -> Done:
    """`nemo-deploy` with these arguments, in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.run(list(arguments))
    return Done(code, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a quantized checkpoint by name, but for its report and the card, which names the
    repository."""
    files = (path for path in folder.iterdir() if path.is_file() and path.name != CARD)
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="session")
def expected(sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What quantizing the same files from a local directory gives."""
    from nemotron_deploy.api.quantize import quantize_source
    from nemotron_deploy.api.quantize_options import options_for
    from nemotron_deploy.model.recipes import CONSERVATIVE

    out = tmp_path_factory.mktemp("expected") / "int4"
    quantize_source(str(sharded), options_for(CONSERVATIVE["int4"], smooth=False), out)
    return contents(out)


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` in four shards, with an index, and a file of code that nobody may fetch."""
    folder = tmp_path_factory.mktemp("sharded") / "nemotron-h-small"
    shutil.copytree(TINY, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(NAMES):
        part = names[number :: len(NAMES)]
        save_file({name: tensors[name] for name in part}, folder / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items(), key=lambda row: row[1]))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "modeling_nemotron_h.py").write_text("raise SystemExit('fetched and run')\n")
    return folder


@pytest.fixture
def hub(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in, running, and huggingface_hub of this process pointed at it and at a new cache.

    What is set in the environment holds for processes that a test starts.
    """
    from huggingface_hub import constants

    cache = tmp_path / "hub-cache"
    stand_in = StandIn()
    stand_in.repositories[REPOSITORY] = sharded
    for name in ("http_proxy", "https_proxy", "all_proxy", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        stand_in.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hub-home" / "token"))
    with stand_in.running():
        yield stand_in
