"""Bundles of checkpoints that are quantized already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemotron_deploy.api.build import dry_run, make, prepare
from nemotron_deploy.api.build_stages import Job
from nemotron_deploy.api.verify import verify
from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.core.files import sha256
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.runtime.golden import Recording
from nemotron_deploy.tests.model.bent import Maker, both
from nemotron_deploy.tests.model.quantized_cases import (
    FP8_FILES,
    NVIDIA,
    encoded,
    experts,
    llm_compressor,
    packed,
)


def job(checkpoint: Path, out: Path, quant: str | None = None) -> Job:
    return prepare(str(checkpoint), "h100", quant, Workload(context=4096), out)


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("fp8", both(NVIDIA, FP8_FILES)),
        ("int4", both(encoded(experts, packed), llm_compressor())),
    ],
)
def test_a_bundle_is_made_and_serves_these_weights(
    name: str, maker: Maker, tiny_copy: Path, tmp_path: Path
) -> None:
    from nemotron_deploy.runtime.executors.loading import load_model

    maker(tiny_copy)
    out = tmp_path / "bundle"
    result = make(job(tiny_copy, out))
    assert result.made == ("checkpoint", "engine", "model_repository", "k8s")
    assert result.calibration is None
    assert not verify(out).failed
    bundle = Bundle.open(out)
    assert bundle.record.asked["quant"] == name
    recorded = bundle.files["checkpoint/model.safetensors"].sha256
    assert recorded == sha256(out / "checkpoint" / "model.safetensors")
    assert (recorded == sha256(tiny_copy / "model.safetensors")) == (name == "fp8")
    golden = Recording.read(out / "engine" / "golden.json")
    assert (golden.status, golden.source) == ("golden", None)
    assert "there is no source to compare them with" in golden.note
    model, _ = load_model(out / "checkpoint")
    assert model.config.vocab_size == 512
    assert make(job(tiny_copy, out, name)).made == ()


def test_a_dry_run_says_what_happens_to_it(tiny_copy: Path, tmp_path: Path) -> None:
    both(NVIDIA, FP8_FILES)(tiny_copy)
    step = dry_run(job(tiny_copy, tmp_path / "out")).stages[0]
    assert "of tensors, taken over:" in step.what
    assert not (tmp_path / "out").exists()


def test_a_changed_source_is_taken_over_again(tiny_copy: Path, tmp_path: Path) -> None:
    both(NVIDIA, FP8_FILES)(tiny_copy)
    out = tmp_path / "bundle"
    make(job(tiny_copy, out))
    path = tiny_copy / "hf_quant_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"more": 1}))
    assert make(job(tiny_copy, out)).made == ("checkpoint", "engine", "k8s")
