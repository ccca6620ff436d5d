"""Golden outputs in a build: held to the source, or absent in words, in JSON and by exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from nemotron_deploy.api import golden
from nemotron_deploy.api.build import make, prepare
from nemotron_deploy.api.build_stages import Job
from nemotron_deploy.api.verify import verify
from nemotron_deploy.api.warmup import warmup
from nemotron_deploy.cli import run
from nemotron_deploy.core.errors import RefusedError
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.runtime import contract
from nemotron_deploy.runtime.golden import Recording

BUILD = ["build", "--checkpoint", "tiny", "--gpu", "h100", "--quant", "bf16", "--context", "4096"]


def job(out: Path, **options: Any) -> Job:
    return prepare("tiny", "h100", "bf16", Workload(context=4096), out, **options)


def recording(bundle: Path) -> Recording:
    return Recording.read(bundle / "engine" / "golden.json")


@pytest.fixture
def too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has no memory for a layer."""
    monkeypatch.setattr(golden, "available_memory", lambda: 1_000_000)


@pytest.fixture
def bundle(built_copy: Callable[[str], Path]) -> Path:
    return built_copy("bf16")


@pytest.fixture
def unchecked(bundle: Path, too_small: None) -> Path:
    """A bundle that was built where golden outputs could not be recorded."""
    (bundle / "engine" / "golden.json").unlink()
    assert make(job(bundle)).made == ("engine",)
    return bundle


def golden_check(bundle: Path) -> str:
    return next(row.detail for row in verify(bundle).checks if row.name == "golden outputs")


def test_a_build_records_and_compares(bundle: Path) -> None:
    made = recording(bundle)
    assert made.status == "golden"
    assert made.source is not None
    assert (made.source.divergence, made.source.agreement) == (0, 1)
    assert "512 positions, recorded by its weights layer by layer" in golden_check(bundle)


def test_a_checkpoint_that_is_not_its_source_is_refused(
    bundle: Path, record_again: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A quantizer's fault: the record says that the file is as it was written. Made again from its
    source, the checkpoint is right, and nothing is left of the run that was refused."""
    shard = bundle / "checkpoint" / "model.safetensors"
    tensors = load_file(shard)
    name = "backbone.layers.3.mixer.o_proj.weight"
    save_file(tensors | {name: -tensors[name]}, shard)
    record_again(bundle, "checkpoint/model.safetensors")
    (bundle / "engine" / "golden.json").unlink()
    assert run([*BUILD, "--out", str(bundle)]) == 5
    error = capsys.readouterr().err
    assert "not what its source says: layer 3 (attention) does not do what its source's does" in (
        " ".join(error.split())
    )
    assert verify(bundle).failed
    shard.unlink()
    assert make(job(bundle)).made == ("checkpoint", "engine")
    assert recording(bundle).source is not None


def test_a_source_that_is_gone_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "is_local", lambda source: False)
    (bundle / "engine" / "golden.json").unlink()
    make(job(bundle))
    made = recording(bundle)
    assert (made.status, made.source) == ("golden", None)
    assert made.bounds is not None
    assert "recorded from the quantized weights alone" in golden_check(bundle)


def test_an_interrupted_recording_goes_on(bundle: Path) -> None:
    class Stopping:
        """Stops the build at a layer; notes where the next one begins."""

        def __init__(self, at: int | None) -> None:
            self.at = at
            self.layers: list[int] = []

        def step(self, name: str, total: int = 0, unit: str = "") -> Callable[..., None]:
            def advance(done: int, note: str = "", /) -> None:
                if name == "golden":
                    self.layers.append(done)
                    if done == self.at:
                        raise KeyboardInterrupt

            return advance

    before = (bundle / "engine" / "golden.json").read_bytes()
    (bundle / "engine" / "golden.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        make(job(bundle), Stopping(at=3))
    second = Stopping(at=None)
    make(job(bundle), second)
    assert second.layers[0] == 4
    assert (bundle / "engine" / "golden.json").read_bytes() == before
    assert {path.name for path in bundle.iterdir() if path.name.startswith(".")} == set()


def test_what_was_not_checked_says_so(
    unchecked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = recording(unchecked)
    assert (made.status, made.bounds) == ("not_recorded", None)
    assert "not recorded: running this model layer by layer takes" in golden_check(unchecked)
    cache = ["--cache", str(tmp_path / "cache")]
    assert run(["warmup", str(unchecked), *cache, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["golden"]["action"] == "not_checked"
    assert document["golden"]["comparison"] is None
    assert document["golden"]["baseline"]["action"] == "recorded"
    assert run(["warmup", str(unchecked), *cache]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "not checked: running this model layer by layer takes" in text
    assert "baseline unchanged since" in text
    assert run(["warmup", str(unchecked), *cache, "--require-golden"]) == 5
    text = " ".join(capsys.readouterr().out.split())
    assert "Not ready" in text
    assert "golden outputs were not checked" in text


def test_a_bundle_that_changed_afterwards_is_not_ready(
    bundle: Path, tmp_path: Path, record_again: Callable[..., None]
) -> None:
    """Norms in each other's place, two projections negated, and a record that fits."""
    shard = bundle / "checkpoint" / "model.safetensors"
    tensors = load_file(shard)
    norms = [n for n in tensors if n.count(".") == 4 and n.endswith(".norm.weight")]
    changed = {n: tensors[o] for n, o in zip(norms, norms[1:] + norms[:1], strict=True)}
    for name in (
        "backbone.layers.0.mixer.out_proj.weight",
        "backbone.layers.3.mixer.o_proj.weight",
    ):
        changed[name] = -tensors[name]
    save_file(tensors | changed, shard)
    record_again(bundle, "checkpoint/model.safetensors")
    result = warmup(bundle, cache=tmp_path / "cache")
    assert not result.ok
    assert result.golden["action"] == "checked"


def test_requiring_golden_outputs_refuses_before_anything_is_written(
    tmp_path: Path, too_small: None
) -> None:
    with pytest.raises(RefusedError, match=r"--require-golden \(rule: golden-outputs\): running"):
        job(tmp_path / "b", require_golden=True)
    assert run([*BUILD, "--out", str(tmp_path / "b"), "--require-golden"]) == 3
    assert not list(tmp_path.iterdir())


def test_manifests_keep_unchecked_servers_from_getting_ready(bundle: Path) -> None:
    assert contract.GOLDEN.name not in (bundle / "k8s/deployment.yaml").read_text()
    result = make(job(bundle, require_golden=True))
    assert "k8s" in result.made
    text = (bundle / "k8s/deployment.yaml").read_text()
    assert text.partition(contract.GOLDEN.name)[2].split()[1] == "require"


def test_a_machine_that_shrinks_fails_the_build_that_requires_them(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = job(bundle, require_golden=True)
    monkeypatch.setattr(golden, "available_memory", lambda: 1_000_000)
    with pytest.raises(RefusedError, match="golden-outputs"):
        make(planned)
