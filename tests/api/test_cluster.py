"""How a bundle gets to the cluster, decided before anything is built."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from nemotron_deploy.api.build import dry_run, prepare
from nemotron_deploy.api.build_stages import Job
from nemotron_deploy.cli import app
from nemotron_deploy.core.errors import UsageError
from nemotron_deploy.k8s.options import ClusterOptions
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.model.spec import Workload


@pytest.fixture
def local(tmp_path: Path) -> str:
    return str(shutil.copytree(TINY, tmp_path / "mine"))


def planned(
    checkpoint: str = "tiny", weights: str | None = None, quant: str = "int4", **options: Any
) -> Job:
    workload = options.pop("workload", Workload(context=4096))
    cluster = ClusterOptions(weights=weights)
    return prepare(checkpoint, "h100", quant, workload, cluster=cluster, **options)


def test_a_job_builds_what_the_cluster_can_get(local: str) -> None:
    assert planned().cluster.weights == "job"
    assert planned(local).cluster.weights == "claim"
    for way in ("claim", "image"):
        assert planned(weights=way).cluster.weights == way


@pytest.mark.parametrize("option", ["calibration", "heldout"])
def test_a_job_cannot_have_local_files(tmp_path: Path, option: str) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "Monday"}\n')
    given: dict[str, Any] = {option: text}
    assert planned(**given).cluster.weights == "claim"
    with pytest.raises(UsageError, match=f"--{option} names the local file .*text.jsonl"):
        planned(weights="job", **given)


def test_a_job_cannot_have_a_local_checkpoint_or_recipe(local: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--weights job cannot be used: the checkpoint .*mine is"):
        planned(local, weights="job")
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump({"weights": [{"tensors": ["experts"], "format": "int4"}]}))
    with pytest.raises(UsageError, match=r"--recipe names the local file .*mine.yaml"):
        planned(weights="job", recipe=str(recipe))


def test_the_jobs_options_make_the_same_bundle() -> None:
    """What the Job runs plans the same as what was asked for."""
    workload = Workload(context=2048, concurrency=3, max_num_tokens=4096, mamba_state="float32")
    asked = planned(
        quant="int8", workload=workload, group_size=64, smooth=None, engine_name="vllm",
        require_golden=True,
    )  # fmt: skip
    assert asked.command == (
        "--checkpoint=tiny", "--gpu=h100", "--engine=vllm", "--context=2048", "--concurrency=3",
        "--max-num-tokens=4096", "--mamba-state=float32", "--quant", "int8", "--group-size", "64",
        "--require-golden",
    )  # fmt: skip
    smoothed = planned()
    assert smoothed.command[-1] == "--smooth"
    assert planned(smooth=False).command[-1] == "--no-smooth"


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({}, False),
        ({"replicas": 2}, True),
        ({"surge": True}, True),
        ({"autoscale": "1:2"}, True),
        ({"autoscale": "1:2", "weights": "image"}, False),
    ],
    ids=["one", "two", "surge", "scaled", "image"],
)
def test_a_claim_for_several_nodes_is_announced(options: dict[str, Any], warned: bool) -> None:
    decided = prepare(
        "tiny", "h100", "int4", Workload(context=4096), cluster=ClusterOptions(**options)
    )
    assert any("ReadWriteMany" in warning for warning in dry_run(decided).warnings) == warned


def test_options_reach_the_command_line(tmp_path: Path) -> None:
    words = ["build", "--checkpoint=tiny", "--gpu=h100", "--quant=int4", f"--out={tmp_path / 'b'}"]
    refused = CliRunner().invoke(app, [*words, "--dry-run", "--platform=nomad"])
    assert isinstance(refused.exception, UsageError)
    assert "known are generic, gke" in str(refused.exception)
