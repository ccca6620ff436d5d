"""`warmup` on bundles of `tiny`: outputs as they should be, and not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nemotron_deploy.api.warmup import warmup
from nemotron_deploy.cli import run
from nemotron_deploy.core.errors import CheckFailedError
from nemotron_deploy.runtime import contract


@pytest.fixture
def bundle(built: Callable[[str], Path]) -> Path:
    return built("fp8")


@pytest.fixture(autouse=True)
def _environment(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches are where `--cache` says, not where the machine that runs the tests keeps them.
    Building the bundle, which calibrates, lets torch set a variable in this process."""
    for name in (*contract.ENGINE_CACHES, contract.CACHE.name):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def swapped(built_copy: Callable[[str], Path], exchange_experts: Callable[[Path], None]) -> Path:
    """The bundle with two experts of a layer in each other's place."""
    out = built_copy("fp8")
    exchange_experts(out)
    return out


def test_a_healthy_bundle_is_ready(bundle: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    result = warmup(bundle, cache=tmp_path / "cache")
    assert result.ok
    assert result.executor == "reference"
    assert result.golden["action"] == "checked"
    assert result.golden["comparison"]["positions"] == 512
    assert all(path.startswith(str(tmp_path / "cache")) for path in result.caches.values())
    assert result.caches["TRITON_CACHE_DIR"] == str(tmp_path / "cache/triton")
    assert not set(result.caches) & set(os.environ), "this process stays as it was"
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before


def test_outputs_that_are_off_end_with_5(
    swapped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = str(tmp_path / "cache")
    assert run(["warmup", str(swapped), "--cache", cache, "--json"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert found["golden"]["faults"][0].startswith("divergence")
    assert run(["warmup", str(swapped), "--cache", cache]) == 5
    assert "Not ready" in capsys.readouterr().out


def test_wrong_ways(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["warmup", str(tmp_path)]) == 4
    assert "no bundle here" in capsys.readouterr().err
    assert run(["warmup", str(bundle), "--executor", "orca"]) == 2
    assert "known are auto, trtllm, vllm, reference" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert run(["warmup", str(bundle), "--cache", str(tmp_path / "file" / "cache")]) == 4
    assert "cannot be created" in capsys.readouterr().err
    with pytest.raises(CheckFailedError, match="needs the package tensorrt_llm"):
        warmup(bundle, "trtllm", tmp_path / "cache")


def test_golden_outputs_that_cannot_be_read(
    built_copy: Callable[[str], Path], tmp_path: Path, record_again: Callable[..., None]
) -> None:
    out = built_copy("fp8")
    (out / "engine" / "golden.json").write_text("{}")
    with pytest.raises(CheckFailedError, match=r"golden\.json: not as recorded"):
        warmup(out, cache=tmp_path / "cache", trust_code=True)
    record_again(out, "engine/golden.json")
    with pytest.raises(CheckFailedError, match=r"golden\.json: cannot be used"):
        warmup(out, cache=tmp_path / "cache")


def test_no_process_of_an_engine_is_left(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[[Callable[[], object], str], None],
) -> None:
    """`sitecustomize` runs first in every child: here it starts a process that goes on."""
    seen = tmp_path / "seen"
    (tmp_path / "sitecustomize.py").write_text(
        "import subprocess\n"
        "process = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)\n"
        f"with open({str(seen)!r}, 'a') as file:\n    print(process.pid, file=file)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert warmup(bundle, cache=tmp_path / "cache").ok
    started = seen.read_text().split()
    assert started
    left = [Path(f"/proc/{pid}") for pid in started]
    eventually(lambda: not any(path.exists() for path in left), "processes are left")


def test_the_executor_sees_no_secret(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sitecustomize` runs first in every child: here it writes down the child's environment."""
    seen = tmp_path / "seen"
    (tmp_path / "sitecustomize.py").write_text(
        f"import os\nwith open({str(seen)!r}, 'a') as file:\n    print(*os.environ, file=file)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert warmup(bundle, cache=tmp_path / "cache").ok
    names = set(seen.read_text().split())
    assert {"PATH", contract.CACHE.name, "HF_HUB_OFFLINE"} <= names
    assert not names & {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"}
