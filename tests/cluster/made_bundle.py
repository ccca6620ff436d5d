"""A bundle with real manifests and no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemotron_deploy import k8s
from nemotron_deploy.core.bundle import STAGES, MadeFrom, building
from nemotron_deploy.core.record import Header
from nemotron_deploy.k8s.options import ClusterOptions
from nemotron_deploy.k8s.release import Release
from nemotron_deploy.model import catalog
from nemotron_deploy.model.spec import Deployment

NAME = "nano-h100-int4"


def make_bundle(folder: Path, version: str, gpu: str = "h100", **options: Any) -> Path:
    """A bundle with real manifests and no weights; each `version` has another digest."""
    deployment = Deployment(
        name=NAME,
        model_name="nano",
        image="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
        gpu=catalog.gpu(gpu),
        gpus=1,
        quant="int4",
        bundle_bytes=19_300_000_000,
        executor="trtllm",
        max_batch_size=64,
        env={},
    )
    path = folder / version / NAME
    path.parent.mkdir(parents=True)
    build = ("--checkpoint=tiny", f"--gpu={gpu}")
    with building(path, Header(name=NAME, model_name="nano", asked={})) as bundle:
        for stage in STAGES[:-1]:
            bundle.run_stage(stage, MadeFrom(version, stage), _one_file)
        chosen = ClusterOptions(**{"weights": "job", **options})
        release = Release(deployment, bundle.inputs_digest, build, 63_000_000_000, chosen)
        bundle.run_stage("k8s", MadeFrom(version, "k8s"), lambda work: k8s.emit(work, release))
    return path


def _one_file(work: Path) -> None:
    (work / "file").write_text("x")
