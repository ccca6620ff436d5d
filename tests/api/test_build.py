"""Building bundles of `tiny`, without starting a server."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from nemotron_deploy.api.build import Job, build, dry_run, prepare
from nemotron_deploy.api.verify import verify
from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.core.errors import BadInputError, RefusedError
from nemotron_deploy.core.files import sha256
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.sources.checkpoint_source import resolve, slug

STAGES = ["checkpoint", "engine", "model_repository", "k8s"]


def job(out: Path, gpu: str = "h100", quant: str = "int4", checkpoint: str = "tiny") -> Job:
    return prepare(checkpoint, gpu, quant, Workload(context=4096), out)


@pytest.fixture
def bundle(built: Callable[[str], Path]) -> Path:
    return built("int4")


@pytest.fixture
def bf16(built_copy: Callable[[str], Path]) -> Path:
    """A bundle of its own for each test."""
    return built_copy("bf16")


def failing(path: Path) -> dict[str, str]:
    return {check.name: check.detail for check in verify(path) if not check.ok}


def test_a_bundle_has_all_its_parts_and_verifies(bundle: Path) -> None:
    for name in (
        "checkpoint/model.safetensors", "checkpoint/config.json", "checkpoint/tokenizer.json",
        "engine/engine.json", "engine/llm_args.yaml", "engine/golden.json",
        "engine/kernels/sm_90/kernels.json", "engine/plugin/nemo_deploy_int4/__init__.py",
        "model_repository/tiny/config.pbtxt",
        "model_repository/tiny/1/model.py", "k8s/kustomization.yaml",
    ):  # fmt: skip
        assert (bundle / name).is_file(), name
    assert not failing(bundle)
    opened = Bundle.open(bundle)
    assert (opened.name, opened.model_name) == ("tiny-h100-int4", "tiny")
    assert not any(path.is_symlink() for path in bundle.rglob("*"))


def test_a_bundle_says_what_quantization_cost(bundle: Path) -> None:
    report = json.loads((bundle / "report/quality.json").read_text())
    assert report["formats"][0]["fidelity"]["kl"] > 0
    assert {"report/quality.json", "report/quality.html"} <= set(Bundle.open(bundle).files)


def test_building_again_does_nothing(bundle: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    assert build(job(bundle))["made"] == []
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before


def test_dry_run_writes_nothing_and_tells_the_truth(tmp_path: Path, bundle: Path) -> None:
    out = tmp_path / "new"
    assert [(row["stage"], row["action"]) for row in dry_run(job(out))] == [
        (stage, "make") for stage in STAGES
    ]
    assert not out.exists()
    assert {row["action"] for row in dry_run(job(bundle))} == {"keep"}


def test_two_builds_are_the_same_to_the_byte(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the second finds no compiled kernels, and is made on another day of which it is
    told the first."""
    made_on = re.search(r"on (\d{4}-\d\d-\d\d)\.", (bundle / "report/quality.html").read_text())
    assert made_on is not None
    first = datetime.fromisoformat(f"{made_on[1]}T12:00Z")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(first.timestamp())))
    monkeypatch.setenv("NEMO_DEPLOY_CACHE", str(tmp_path / "cache"))
    again = tmp_path / "tiny-h100-int4"
    build(job(again))
    assert Bundle.open(again).files == Bundle.open(bundle).files


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("checkpoint/model.safetensors", "digests"),
        ("checkpoint/tokenizer.json", "digests"),  # exchanged ids beside the same weights
        ("engine/llm_args.yaml", "digests"),
        ("engine/golden.json", "digests"),
        ("model_repository/tiny/config.pbtxt", "digests"),
        ("k8s/base/deployment.yaml", "digests"),
    ],
)
def test_any_change_fails_verification(bf16: Path, name: str, check: str) -> None:
    assert not failing(bf16)
    data = bytearray((bf16 / name).read_bytes())
    data[-2] ^= 1
    (bf16 / name).write_bytes(data)
    assert name in failing(bf16)[check]


def test_one_changed_stage_alone_is_made_again(bf16: Path) -> None:
    (bf16 / "engine" / "llm_args.yaml").unlink()
    record = build(job(bf16, quant="bf16"))
    assert (record["made"], record["kept"]) == (
        ["engine"],
        ["checkpoint", "model_repository", "k8s"],
    )
    assert not failing(bf16)


def test_another_gpu_keeps_the_checkpoint(bf16: Path) -> None:
    weights = sha256(bf16 / "checkpoint" / "model.safetensors")
    assert build(job(bf16, gpu="a100", quant="bf16"))["made"] == [
        "engine",
        "model_repository",
        "k8s",
    ]
    assert sha256(bf16 / "checkpoint" / "model.safetensors") == weights
    assert Bundle.open(bf16).name == "tiny-a100-bf16"


def test_a_changed_source_is_noticed(tiny_copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    build(job(out, quant="bf16", checkpoint=str(tiny_copy)))
    config = json.loads((tiny_copy / "generation_config.json").read_text())
    (tiny_copy / "generation_config.json").write_text(json.dumps(config | {"top_k": 7}))
    # Golden outputs are those of the checkpoint: the engine follows it.
    assert build(job(out, quant="bf16", checkpoint=str(tiny_copy)))["made"] == [
        "checkpoint",
        "engine",
    ]


def test_refusals_come_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="fp8-sm89"):
        job(tmp_path / "b", gpu="a100", quant="fp8")
    with pytest.raises(BadInputError, match="hf download nvidia/NVIDIA-Nemotron-3-Nano"):
        job(tmp_path / "b", checkpoint="nemotron-3-nano-30b-a3b")
    with pytest.raises(BadInputError, match="no model known by name"):
        job(tmp_path / "b", checkpoint="gpt-2")
    assert not list(tmp_path.iterdir())


BUILD = [
    sys.executable, "-m", "nemotron_deploy", "build", "--gpu", "h100", "--quant", "int4",
    "--checkpoint", "tiny", "--context", "4096", "--out",
]  # fmt: skip


STEPS = [
    "Calibrate", "Quantize", "Compare", "Engine directory", "Compiling kernels", "Golden outputs",
    "Triton model repository", "Kubernetes manifests",
]  # fmt: skip
"""What a build says it is at, in this order."""


def test_builds_killed_at_random_moments_are_completed_by_the_next(
    tmp_path: Path, bundle: Path
) -> None:
    """SIGKILL at a random moment shortly after the beginning of each step."""
    out, chance = tmp_path / "tiny-h100-int4", random.Random(0)
    killed = []
    for step in STEPS:
        cache = {"NEMO_DEPLOY_CACHE": str(tmp_path / "empty")} if "kernels" in step else {}
        process = subprocess.Popen(
            [*BUILD, str(out)], stderr=subprocess.PIPE, text=True, env=os.environ | cache
        )
        with process:
            assert process.stderr is not None
            if any(line.strip() == step for line in process.stderr):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0, 0.5))
                process.kill()
        if process.returncode == -signal.SIGKILL:
            killed.append(step)
    assert {"Calibrate", "Quantize", "Compiling kernels"} <= set(killed)
    subprocess.run([*BUILD, str(out)], check=True, capture_output=True)
    assert not failing(out)
    assert sorted(os.listdir(out)) == sorted(["bundle.json", "report", *STAGES])
    assert Bundle.open(out).files == Bundle.open(bundle).files


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "nemotron-3-nano-30b-a3b"),
        ("tiny", "tiny"),
        ("My Model_v2", "my-model-v2"),
        ("30B", "model-30b"),
        ("..", "model"),
        ("x" * 80, "x" * 40),
    ],
)
def test_slugs_are_dns_labels(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_resolve_prefers_a_directory(tiny_copy: Path) -> None:
    assert resolve(str(tiny_copy)).checkpoint is not None
    assert resolve("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16").checkpoint is None
