"""`quantize` and `build` of a repository of the hub, as a user runs them, against the stand-in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nemotron_deploy.api.inspect import inspect
from nemotron_deploy.api.quantize import quantize_source
from nemotron_deploy.api.quantize_options import options_for
from nemotron_deploy.core.errors import BadInputError, RefusedError
from nemotron_deploy.hub.client import cache_folder
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.tests.hub.conftest import INT4, NAMES, REPOSITORY, contents, run
from nemotron_deploy.tests.hub.stand_in import SIGNATURE, StandIn, digests
from nemotron_deploy.tests.model.bent import both, shards
from nemotron_deploy.tests.model.quantized_cases import FP8_FILES, NVIDIA


def test_quantize_fetches_checks_and_records(
    hub: StandIn,
    sharded: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    done = run(
        "quantize", "--checkpoint", REPOSITORY, *INT4, "--out", str(out), "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert contents(out) == expected
    record = json.loads(done.stdout)
    source = record["source"]
    assert (source["repository"], source["commit"]) == (REPOSITORY, hub.commit(REPOSITORY))
    assert set(NAMES) < set(source["files"])
    for name, row in source["files"].items():
        assert row == {
            "bytes": (sharded / name).stat().st_size,
            "sha256": digests(sharded / name)[0],
        }
    assert "modeling_nemotron_h.py" not in hub.fetched()
    assert hub.commit(REPOSITORY) in done.stderr
    assert "download" in done.stderr
    everything = done.stdout + done.stderr
    for path in out.rglob("*"):
        everything += path.read_text(errors="replace") if path.is_file() else ""
    assert "hf_secret" not in everything
    assert SIGNATURE not in everything


def test_a_second_run_fetches_nothing(hub: StandIn, tmp_path: Path) -> None:
    for name in ("one", "two"):
        hub.requests.clear()
        quantize_source(
            REPOSITORY, options_for(CONSERVATIVE["int4"], smooth=False), tmp_path / name
        )
    assert [name for name in hub.fetched() if name] == []


def test_what_was_fetched_serves_without_a_network(
    hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_source(REPOSITORY, options_for(CONSERVATIVE["int4"], smooth=False), tmp_path / "one")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    result = quantize_source(
        REPOSITORY, options_for(CONSERVATIVE["int4"], smooth=False), tmp_path / "two"
    )
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert result.source is not None
    assert result.source["commit"] == hub.commit(REPOSITORY)


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
    assert [hub.starts(name) for name in NAMES] == [[0]] * 4
    record = json.loads(done.stdout)
    assert record["source"]["files"][NAMES[0]]["sha256"]
    assert "--low-disk deletes" in record["quality"]["missing"]
    assert record["quality"]["formats"][0]["weight_error"]["mean"] > 0


@pytest.mark.parametrize(
    ("options", "instead"),
    [
        (["--quant", "fp8"], "--quant int4 --low-disk"),
        (["--quant", "int4", "--smooth"], "--no-smooth"),
    ],
)
def test_low_disk_refuses_what_reads_weights_twice(
    hub: StandIn, tmp_path: Path, options: list[str], instead: str
) -> None:
    out = tmp_path / "out"
    done = run("quantize", "--checkpoint", REPOSITORY, "--low-disk", *options, "--out", str(out))
    assert done.returncode == 3
    assert "rule: low-disk" in done.stderr
    assert instead in done.stderr
    assert hub.requests == []


def test_low_disk_never_removes_a_local_directory(sharded: Path, tmp_path: Path) -> None:
    options = options_for(CONSERVATIVE["int4"], low_disk=True)
    with pytest.raises(RefusedError, match="local files are never deleted"):
        quantize_source(str(sharded), options, tmp_path / "out")


def test_inspect_and_plan_of_an_unknown_repository_read_headers_only(
    hub: StandIn, sharded: Path
) -> None:
    found = json.loads(run("inspect", "--checkpoint", REPOSITORY, "--json").stdout)
    assert found["source"] == f"{REPOSITORY}@{hub.commit(REPOSITORY)}"
    assert found["model"] == "nemotron-h-small"
    assert found["bytes"] == inspect(str(sharded)).bytes
    planned = run("plan", "--checkpoint", REPOSITORY, "--gpu", "h100", "--quant", "int4", "--json")
    assert json.loads(planned.stdout)["model"] == "nemotron-h-small"
    assert not set(NAMES) & set(hub.fetched())


def test_known_models_are_planned_without_asking_anybody(hub: StandIn) -> None:
    for arguments in (["inspect"], ["plan", "--gpu", "h100", "--quant", "fp8"]):
        assert run(*arguments).returncode == 0
    assert hub.requests == []


def test_build_shows_the_plan_and_records_the_source(hub: StandIn, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    command = ["build", "--checkpoint", REPOSITORY, "--gpu", "h100", "--quant", "int4",
               "--context", "4096", "--out", str(out), "--low-disk"]  # fmt: skip
    planned = json.loads(run(*command, "--dry-run", "--json").stdout)
    assert not set(NAMES) & set(hub.fetched())
    assert not out.exists()
    assert planned["fetch"]["commit"] == hub.commit(REPOSITORY)
    assert set(NAMES) < set(planned["fetch"]["files"])
    assert planned["fetch"]["disk_bytes"] < planned["fetch"]["disk_bytes_overlapped"]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "each shard is deleted" in done.stderr
    record = json.loads((out / "bundle.json").read_text())
    assert record["model_name"] == "nemotron-h-small"
    source = record["stages"]["checkpoint"]["made"]["source"]
    assert source["commit"] == hub.commit(REPOSITORY)
    golden = json.loads((out / "engine/golden.json").read_text())
    assert (golden["status"], golden["source"]) == ("golden", None)
    assert "recorded from the quantized weights alone" in golden["note"]
    hub.requests.clear()
    again = run(*command, "--json")
    assert json.loads(again.stdout)["made"] == []
    assert not set(NAMES) & set(hub.fetched())


def test_build_compares_with_the_weights_that_it_downloaded(hub: StandIn, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    done = run("build", "--checkpoint", REPOSITORY, "--gpu", "h100", "--quant", "bf16",
               "--context", "4096", "--out", str(out))  # fmt: skip
    assert done.returncode == 0, done.stderr
    golden = json.loads((out / "engine/golden.json").read_text())
    assert golden["source"] == {"divergence": 0.0, "agreement": 1.0, "rounding": 0.0}
    assert golden["note"] == ""
    assert all(hub.fetched().count(name) == 1 for name in NAMES)


@pytest.mark.parametrize("kind", ["directory", "cache"])
def test_a_flipped_bit_is_found_where_a_download_recorded_hashes(
    hub: StandIn, sharded: Path, tmp_path: Path, kind: str
) -> None:
    """What `hf download` does is done by huggingface_hub's own code."""
    from huggingface_hub import hf_hub_download

    local = tmp_path / "local" if kind == "directory" else None
    for path in sharded.iterdir():
        folder = Path(hf_hub_download(REPOSITORY, path.name, local_dir=local)).parent
    file = (folder / NAMES[1]).resolve()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadInputError, match=rf"{NAMES[1]}: its SHA-256 is"):
        quantize_source(
            str(folder), options_for(CONSERVATIVE["int4"], smooth=False), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
    file.write_bytes(whole)
    quantize_source(str(folder), options_for(CONSERVATIVE["int4"], smooth=False), tmp_path / "out")


def test_a_quantized_repository_is_fetched_and_taken_over(hub: StandIn, tmp_path: Path) -> None:
    """Its shards lie on the disk once, in the cache; the plan of the download counts them once."""
    repository = "example/nemotron-h-small-fp8"
    published = tmp_path / "published"
    shutil.copytree(TINY, published)
    both(NVIDIA, FP8_FILES, shards(3))(published)
    hub.repositories[repository] = published
    out = tmp_path / "bundle"
    command = ["build", "--checkpoint", repository, "--gpu", "h100", "--context", "4096",
               "--out", str(out)]  # fmt: skip
    planned = json.loads(run(*command, "--dry-run", "--json").stdout)
    names = sorted(path.name for path in published.glob("*.safetensors"))
    assert not set(names) & set(hub.fetched())
    assert not out.exists()
    done = run(*command)
    assert done.returncode == 0, done.stderr
    checkpoint = out / "checkpoint"
    cached = {path.name: path for path in cache_folder(repository).rglob("*.safetensors")}
    assert sorted(cached) == names
    assert all((checkpoint / name).samefile(cached[name]) for name in names)
    whole = sum((published / name).stat().st_size for name in names)
    others = sum(p.stat().st_size for p in checkpoint.iterdir() if p.name not in names)
    assert planned["fetch"]["disk_bytes"] == pytest.approx(whole + others, rel=0.02)
    assert planned["fetch"]["disk_bytes"] < 1.5 * whole
    record = json.loads((out / "bundle.json").read_text())
    assert record["asked"]["quant"] == "fp8"
    golden = json.loads((out / "engine/golden.json").read_text())
    assert "was quantized already" in golden["note"]


def test_low_disk_takes_a_quantized_repository_over(hub: StandIn, tmp_path: Path) -> None:
    """Nothing is linked: each shard passes through and is deleted."""
    repository = "example/nemotron-h-small-fp8"
    published = tmp_path / "published"
    shutil.copytree(TINY, published)
    both(NVIDIA, FP8_FILES, shards(3))(published)
    hub.repositories[repository] = published
    out = tmp_path / "bundle"
    command = ["build", "--checkpoint", repository, "--gpu", "h100", "--context", "4096",
               "--out", str(out), "--low-disk"]  # fmt: skip
    whole = sum(path.stat().st_size for path in published.glob("*.safetensors"))
    planned = json.loads(run(*command, "--dry-run", "--json").stdout)
    assert planned["fetch"]["disk_bytes"] > whole
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert not list(cache_folder(repository).rglob("model-*.safetensors"))
    for path in published.glob("*.safetensors"):
        assert (out / "checkpoint" / path.name).read_bytes() == path.read_bytes()
