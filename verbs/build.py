"""`build`: a bundle, stage by stage. The one place where the rooms meet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..build import engine, support
from ..build import plan as planner
from ..bundle import RECORD_NAME, STAGES, Bundle, building
from ..checkpoint import Checkpoint
from ..files import digest_of, require_space, sha256
from ..models import gpu
from ..recipe import RECIPES, Recipe
from ..spec import Deployment, Plan, Workload
from .progress import Progress, Silent
from .quantize import (
    quantize_into,
    recipe_named,
    require_packages,
    require_smoothable,
)
from .source import Source, resolve

BUNDLES: Final = Path("dist")
"""Where bundles go when `--out` is not given."""


@dataclass(frozen=True, slots=True)
class Job:
    """A build, decided: nothing is written before all of this is known to be possible."""

    source: Source
    plan: Plan
    recipe: Recipe
    calibration: Path | None
    smooth: bool
    out: Path

    @property
    def checkpoint(self) -> Checkpoint:
        return self.source.require_checkpoint()

    @property
    def header(self) -> dict[str, Any]:
        """What `bundle.json` says besides stages and files."""
        return {
            "name": self.out_name,
            "model_name": self.source.slug,
            "made_by": f"nemo-deploy {__version__}",
            "asked": {
                "checkpoint": self.source.asked,
                "gpu": self.plan.gpu,
                "gpus": self.plan.gpus,
                "quant": self.plan.quant["requested"],
                "calibration": str(self.calibration) if self.calibration else None,
                "smooth": self.smooth,
            },
            "backend": self.plan.backend,
            "needs": list(self.plan.needs),
        }

    @property
    def out_name(self) -> str:
        return bundle_name(self.source.slug, self.plan)


def bundle_name(slug: str, plan: Plan) -> str:
    """For example `nemotron-3-nano-30b-a3b-h100-int4`; more than one GPU is said."""
    count = f"-x{plan.gpus}" if plan.gpus > 1 else ""
    return f"{slug}-{plan.gpu}{count}-{plan.quant['requested']}"


def prepare(
    checkpoint: str,
    gpu_name: str,
    quant_name: str,
    workload: Workload,
    out: Path | None = None,
    calibration: Path | None = None,
    smooth: bool = False,
) -> Job:
    """Decide a build. Raises `RefusedError` for what cannot be served, `BadInputError` for a
    checkpoint that is not here or not whole."""
    target, quant = gpu(gpu_name), planner.quant_named(quant_name)
    source = resolve(checkpoint)
    plan = planner.plan(source.model, target, quant, workload)
    planner.require_buildable(plan)
    recipe = recipe_named(quant_name)
    require_smoothable(recipe, smooth)
    require_packages(recipe, smooth)
    source.require_checkpoint().require_complete()
    out = out or BUNDLES / bundle_name(source.slug, plan)
    return Job(source, plan, recipe, calibration, smooth, out)


def dry_run(job: Job) -> list[dict[str, Any]]:
    """What `build` would do: every stage, and whether it would be made or is there already."""
    stages = _stages(job, Silent())
    bundle = Bundle.open(job.out) if (job.out / RECORD_NAME).exists() else None
    return [
        {
            "stage": stage.name,
            "action": "keep" if bundle and bundle.stage_is_current(stage.name, stage.inputs)
            else "make",
            "what": stage.what,
        }
        for stage in stages
    ]  # fmt: skip


def build(job: Job, progress: Progress | None = None) -> dict[str, Any]:
    """Make the bundle, or what is missing or outdated of it; gives what `build --json` prints."""
    progress = progress or Silent()
    stages = _stages(job, progress)
    made = []
    if not (job.out / "checkpoint").exists():
        require_space(job.out, job.plan.weights_bytes)
    with building(job.out, job.header) as bundle:
        for stage in stages:
            if bundle.stage_is_current(stage.name, stage.inputs):
                continue
            if stage.name != "checkpoint":
                progress.step(stage.name)
            bundle.run_stage(stage.name, stage.inputs, stage.make)
            made.append(stage.name)
    return {
        "bundle": str(job.out),
        "name": bundle.name,
        "model_name": bundle.model_name,
        "made": made,
        "kept": [name for name in STAGES if name not in made],
        "files": len(bundle.files),
        "bytes": sum(row["bytes"] for row in bundle.files.values()),
        "checkpoint_bytes": bundle.stage_bytes("checkpoint"),
        "backend": job.plan.backend,
        "needs": list(job.plan.needs),
        "reasons": list(job.plan.reasons),
    }


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage: the digest of all it depends on, how to make it, and what it holds."""

    name: str
    inputs: str
    make: Callable[[Path], Mapping[str, Any] | None]
    what: str


def _stages(job: Job, progress: Progress) -> list[_Stage]:
    """The stages in order. A stage's digest covers the code's version too."""
    deployment = _deployment(job)
    described = asdict(deployment)

    def checkpoint(dest: Path) -> dict[str, Any]:
        return quantize_into(
            job.checkpoint, job.recipe, dest, job.calibration, job.smooth, progress
        )

    def model_repository(dest: Path) -> None:
        from .. import triton_repo

        triton_repo.emit(dest, deployment)

    def k8s(dest: Path) -> None:
        from .. import k8s as manifests

        manifests.emit(dest, deployment)

    weights = f"{job.plan.weights_bytes / 1e9:.2f} GB of tensors: {job.recipe.summary}"
    repository = f"Triton model {deployment.model_name} for {deployment.image}"
    manifests = f"kustomize tree for {', '.join(deployment.gpu.product_labels)}"
    return [
        _Stage("checkpoint", _inputs(_fingerprint(job)), checkpoint, weights),
        _Stage(
            "engine",
            _inputs(engine.describe(job.plan), dict(job.plan.llm_args)),
            lambda dest: engine.emit(dest, job.plan),
            f"LLM arguments for {job.plan.backend}, SM{job.plan.sm}",
        ),
        _Stage("model_repository", _inputs(described), model_repository, repository),
        _Stage("k8s", _inputs(described), k8s, manifests),
    ]


def _deployment(job: Job) -> Deployment:
    plan = job.plan
    return Deployment(
        name=job.out_name,
        model_name=job.source.slug,
        image=support.runtime()["image"],
        gpu=gpu(plan.gpu),
        gpus=plan.gpus,
        quant=str(plan.quant["requested"]),
        bundle_bytes=plan.weights_bytes,
        max_batch_size=plan.llm_args["max_batch_size"],
    )


def _inputs(*parts: object) -> str:
    return digest_of([__version__, *parts])


def _fingerprint(job: Job) -> dict[str, Any]:
    """What the quantized checkpoint depends on. Shards count by header, size and time of change:
    hashing 63 GB at every run would be no quick look."""
    shards = []
    for shard in job.checkpoint.shards:
        status = shard.stat()
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = hashlib.sha256(file.read(length)).hexdigest()
        shards.append([shard.name, status.st_size, status.st_mtime_ns, header])
    others = [
        [path.name, sha256(path)]
        for path in sorted(job.checkpoint.path.iterdir())
        if path.is_file() and path.suffix in (".json", ".jinja", ".model", ".txt")
    ]
    calibration = sha256(job.calibration) if job.calibration else None
    recipe = asdict(RECIPES[job.recipe.key]) | {"roles": sorted(job.recipe.roles)}
    options = {"recipe": recipe, "calibration": calibration, "smooth": job.smooth}
    return {"shards": shards, "files": others, **options}
