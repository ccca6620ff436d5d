"""Building bundles of `tiny`, without starting a server."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from nemotron_deploy import __version__
from nemotron_deploy.api import build_stages
from nemotron_deploy.api.build import dry_run, make, prepare
from nemotron_deploy.api.build_stages import PLUGIN_SOURCES, SOURCES, Job
from nemotron_deploy.api.verify import verify
from nemotron_deploy.core import source_digest
from nemotron_deploy.core.bundle import Bundle
from nemotron_deploy.core.errors import BadInputError, RefusedError
from nemotron_deploy.core.files import sha256
from nemotron_deploy.k8s.options import ClusterOptions
from nemotron_deploy.model.spec import Workload
from nemotron_deploy.quantize.encoding import ENCODING
from nemotron_deploy.sources.checkpoint_source import resolve, slug

OLD_RECORD = Path(__file__).parents[1] / "core" / "golden" / "bundle-schema-1.json"

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
    return {check.name: check.detail for check in verify(path).failed}


def test_a_bundle_has_all_its_parts_and_verifies(bundle: Path) -> None:
    for name in (
        "checkpoint/model.safetensors", "checkpoint/config.json", "checkpoint/tokenizer.json",
        "engine/engine.json", "engine/llm_args.yaml", "engine/golden.json",
        "engine/kernels/sm_90/kernels.json", "engine/plugin/nemo_deploy_experts/__init__.py",
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


def test_an_interrupted_build_of_a_bundle_to_be_copied_is_resumed(bf16: Path) -> None:
    """Its manifests name files, which are not all there yet."""
    record = json.loads((bf16 / "bundle.json").read_text())
    for stage in ("engine", "model_repository", "k8s"):
        shutil.rmtree(bf16 / stage)
        del record["stages"][stage]
    record["files"] = {
        name: row for name, row in record["files"].items() if name.startswith("checkpoint/")
    }
    (bf16 / "bundle.json").write_text(json.dumps({**record, "complete": False}))
    copied = ClusterOptions(weights="claim")
    decided = prepare("tiny", "h100", "bf16", Workload(context=4096), bf16, cluster=copied)
    assert [step.action for step in dry_run(decided).stages] == ["keep", "make", "make", "make"]


IN_A_COPY = """
import nemotron_deploy
from nemotron_deploy.api.build import prepare
from nemotron_deploy.api.build_stages import served_from
from nemotron_deploy.core.bundle import inputs_digest
from nemotron_deploy.model.spec import Workload
job = prepare("tiny", "h100", "int4", Workload(context=4096))
print(nemotron_deploy.__file__)
print(inputs_digest(served_from(job)))
"""


def test_a_bundle_has_the_same_inputs_on_every_machine(bundle: Path, tmp_path: Path) -> None:
    """Whatever the package's path and times of change, the number of cores and the user."""
    package = source_digest.PACKAGE
    copy = tmp_path / "elsewhere" / "nemotron_deploy"
    copy.mkdir(parents=True)
    for item in sorted(package.iterdir()):
        if item.is_file() and item.suffix in (".py", ".typed"):
            shutil.copyfile(item, copy / item.name)
        elif item.is_dir() and item.name not in ("tests", "docs", "dist") and item.name[0] != ".":
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(item, copy / item.name, copy_function=shutil.copyfile, ignore=skipped)
    one_core = {min(os.sched_getaffinity(0))}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_COPY],
        cwd=copy.parent,  # where the import finds the copy
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(copy.parent)},
        preexec_fn=lambda: os.sched_setaffinity(0, one_core),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(copy / "__init__.py"), Bundle.open(bundle).inputs_digest]


def test_building_again_does_nothing(bundle: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*")}
    assert make(job(bundle)).made == ()
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*")} == before


def test_dry_run_writes_nothing_and_tells_the_truth(tmp_path: Path, bundle: Path) -> None:
    out = tmp_path / "new"
    assert [(step.stage, step.action) for step in dry_run(job(out)).stages] == [
        (stage, "make") for stage in STAGES
    ]
    assert not out.exists()
    assert {step.action for step in dry_run(job(bundle)).stages} == {"keep"}


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
    make(job(again))
    assert Bundle.open(again).files == Bundle.open(bundle).files


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("checkpoint/model.safetensors", "digests"),
        ("checkpoint/tokenizer.json", "digests"),  # exchanged ids beside the same weights
        ("engine/llm_args.yaml", "digests"),
        ("engine/golden.json", "digests"),
        ("model_repository/tiny/config.pbtxt", "digests"),
        ("k8s/deployment.yaml", "digests"),
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
    result = make(job(bf16, quant="bf16"))
    assert (result.made, result.kept) == (
        ("engine",),
        ("checkpoint", "model_repository", "k8s"),
    )
    assert not failing(bf16)


def test_a_stage_is_made_again_exactly_when_its_own_code_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of the package's sources, a line is changed in one file after the other."""
    sources = tmp_path / "sources"
    for part in (*(part for parts in SOURCES.values() for part in parts), *PLUGIN_SOURCES):
        original, copy = source_digest.PACKAGE / part, sources / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        if original.is_dir():
            shutil.copytree(original, copy, dirs_exist_ok=True)
        else:
            shutil.copy(original, copy)
    monkeypatch.setattr(source_digest, "PACKAGE", sources)
    out = tmp_path / "tiny-h100-bf16"
    make(job(out, quant="bf16"))
    for changed, made in {
        "runtime/triton/model.py": ("model_repository",),
        "runtime/golden.py": ("engine", "model_repository"),
        "k8s/objects/service.py": ("k8s",),
        "build/engines/tensorrt_llm/directory.py": ("engine",),
        "build/kernels/kernel.py": (),  # BF16 has no kernels of ours
    }.items():
        with (sources / changed).open("a") as file:
            file.write("# one more line\n")
        steps = dry_run(job(out, quant="bf16")).stages
        expected = dict.fromkeys(made, "the code that makes it has changed")
        if made and made != ("k8s",):  # another bundle, which the manifests name
            expected["k8s"] = "its inputs have changed"
        assert {step.stage: step.why for step in steps if step.why} == expected
        assert make(job(out, quant="bf16")).made == tuple(expected), changed
    assert not failing(out)


def test_a_new_version_makes_nothing_again(bf16: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = (bf16 / "bundle.json").read_bytes()
    monkeypatch.setattr("nemotron_deploy.__version__", "9.9")
    monkeypatch.setattr("nemotron_deploy.core.record.MADE_BY", "nemo-deploy 9.9")
    monkeypatch.setattr("nemotron_deploy.core.bundle.MADE_BY", "nemo-deploy 9.9")
    assert make(job(bf16, quant="bf16")).made == ()
    assert (bf16 / "bundle.json").read_bytes() == record
    (bf16 / "k8s" / "kustomization.yaml").unlink()
    assert make(job(bf16, quant="bf16")).made == ("k8s",)
    written = json.loads((bf16 / "bundle.json").read_text())
    assert written["made_by"] == written["stages"]["k8s"]["made_by"] == "nemo-deploy 9.9"
    assert written["stages"]["checkpoint"]["made_by"] == f"nemo-deploy {__version__}"


def test_another_encoding_makes_the_checkpoint_again_and_what_depends_on_it(
    bf16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_stages, "ENCODING", ENCODING + 1)
    assert make(job(bf16, quant="bf16")).made == ("checkpoint", "engine", "k8s")
    assert Bundle.open(bf16).record.stages["checkpoint"].maker == f"encoding {ENCODING + 1}"


def test_a_bundle_of_an_older_schema_verifies(bf16: Path) -> None:
    old = json.loads(OLD_RECORD.read_text())
    new = json.loads((bf16 / "bundle.json").read_text())
    older = {key: new[key] for key in old} | {"schema": 1}
    assert new.keys() == old.keys()
    for stage in older["stages"].values():
        del stage["maker"], stage["made_by"]
    assert {key for stage in old["stages"].values() for key in stage} == {"inputs", "made"}
    (bf16 / "bundle.json").write_text(json.dumps(older))
    assert not failing(bf16)
    assert {step.why for step in dry_run(job(bf16, quant="bf16")).stages} == {
        "the code that makes it has changed"
    }


def test_another_gpu_keeps_the_checkpoint(bf16: Path) -> None:
    weights = sha256(bf16 / "checkpoint" / "model.safetensors")
    assert make(job(bf16, gpu="a100", quant="bf16")).made == ("engine", "model_repository", "k8s")
    assert sha256(bf16 / "checkpoint" / "model.safetensors") == weights
    assert Bundle.open(bf16).name == "tiny-a100-bf16"


def test_a_changed_source_is_noticed(tiny_copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    make(job(out, quant="bf16", checkpoint=str(tiny_copy)))
    config = json.loads((tiny_copy / "generation_config.json").read_text())
    (tiny_copy / "generation_config.json").write_text(json.dumps(config | {"top_k": 7}))
    # Golden outputs are those of the checkpoint: the engine follows it.
    assert make(job(out, quant="bf16", checkpoint=str(tiny_copy))).made == (
        "checkpoint",
        "engine",
        "k8s",  # names the files
    )


def test_refusals_come_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="fp8-sm89"):
        job(tmp_path / "b", gpu="a100", quant="fp8")
    with pytest.raises(BadInputError, match="hf download nvidia/NVIDIA-Nemotron-3-Nano"):
        job(tmp_path / "b", checkpoint="nemotron-3-nano-30b-a3b")
    with pytest.raises(BadInputError, match="It is not a known model either"):
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
