"""`quantize` and `build` of a repository of the hub, as a user runs them, against the stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemotron_deploy.hub.client import cache_folder
from nemotron_deploy.tests.hub.conftest import REPOSITORY
from nemotron_deploy.tests.hub.stand_in import SIGNATURE, StandIn, digests
from nemotron_deploy.verbs.quantize import options_for, quantize

SHARDS = [f"model-{number:05}-of-00004.safetensors" for number in range(1, 5)]
INT4 = ("--quant", "int4", "--no-smooth")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`nemo-deploy` with these arguments, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "nemotron_deploy", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Files of a quantized checkpoint; its report names the source and is left out."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def expected(sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What quantizing the same files from a local directory gives."""
    out = tmp_path_factory.mktemp("expected") / "int4"
    quantize(str(sharded), options_for("int4", smooth=False), out)
    return contents(out)


def test_quantize_fetches_checks_and_records(
    hub: StandIn, sharded: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(
        "quantize", "--checkpoint", REPOSITORY, *INT4, "--out", str(out), "--json",
        HF_TOKEN="hf_secret",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert contents(out) == expected
    record = json.loads(done.stdout)
    source = record["source"]
    assert (source["repository"], source["commit"]) == (REPOSITORY, hub.commit(REPOSITORY))
    assert set(SHARDS) < set(source["files"])
    for name, row in source["files"].items():
        assert row == {
            "bytes": (sharded / name).stat().st_size,
            "sha256": digests(sharded / name)[0],
        }
    assert "modeling_nemotron_h.py" not in hub.fetched()
    assert hub.commit(REPOSITORY) in done.stderr
    assert "fetch" in done.stderr
    everything = done.stdout + done.stderr
    for path in out.rglob("*"):
        everything += path.read_text(errors="replace") if path.is_file() else ""
    assert "hf_secret" not in everything
    assert SIGNATURE not in everything


def test_a_second_run_fetches_nothing(hub: StandIn, tmp_path: Path) -> None:
    for name in ("one", "two"):
        hub.requests.clear()
        quantize(REPOSITORY, options_for("int4", smooth=False), tmp_path / name)
    assert [name for name in hub.fetched() if name] == []


def test_what_was_fetched_serves_without_a_network(
    hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(REPOSITORY, options_for("int4", smooth=False), tmp_path / "one")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    record = quantize(REPOSITORY, options_for("int4", smooth=False), tmp_path / "two")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert record["source"]["commit"] == hub.commit(REPOSITORY)


def test_low_disk_gives_the_same_bytes_and_keeps_no_shard(
    hub: StandIn, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run("quantize", "--checkpoint", REPOSITORY, "--quant", "int4", "--low-disk",
               "--out", str(out), "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert contents(out) == expected
    assert not list(tmp_path.rglob("*/shards/*"))
    assert not list(cache_folder(REPOSITORY).rglob("model-*.safetensors"))
    assert [hub.starts(name) for name in SHARDS] == [[0]] * 4
    record = json.loads(done.stdout)
    assert record["source"]["files"][SHARDS[0]]["sha256"]
    assert "--low-disk lets go" in record["quality"]["missing"]
    assert record["quality"]["formats"][0]["weight_error"]["mean"] > 0
