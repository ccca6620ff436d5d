"""`build`: a bundle, stage by stage. The one place where the rooms meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from .. import __version__
from ..build.engines.registry import DEFAULT as DEFAULT_ENGINE
from ..build.engines.registry import engine
from ..build.planner import plan as planner
from ..core.bundle import RECORD_NAME, STAGES, Bundle, building
from ..core.files import Work, digest_of
from ..core.progress import Progress, Silent
from ..model.catalog import gpu
from ..model.formats import quant_named
from ..model.spec import Deployment, Plan, Workload
from ..quantize.options import Options
from ..sources.checkpoint_source import Source, opened, resolve
from ..sources.fetching import fetch_plan
from .golden import write_golden
from .quality import files
from .quantize import quantize_into, require_low_disk_source
from .quantize_options import options_for

BUNDLES: Final = Path("dist")
"""Where bundles go when `--out` is not given."""


@dataclass(frozen=True, slots=True)
class Job:
    """A build, decided: nothing is written before all of this is known to be possible."""

    source: Source
    plan: Plan
    options: Options
    out: Path

    @property
    def header(self) -> dict[str, Any]:
        """What `bundle.json` says besides stages and files."""
        calibration = self.options.calibration
        return {
            "name": self.out_name,
            "model_name": self.source.slug,
            "made_by": f"nemo-deploy {__version__}",
            "asked": {
                "checkpoint": self.source.asked,
                "gpu": self.plan.gpu,
                "gpus": self.plan.gpus,
                "quant": self.plan.quant["requested"],
                "calibration": str(calibration) if calibration else None,
                "smooth": self.options.smooth,
            },
            "backend": self.plan.engine.backend,
            "needs": list(self.plan.engine.needs),
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
    *,
    calibration: Path | None = None,
    smooth: bool | None = None,
    device: str = "auto",
    heldout: Path | None = None,
    low_disk: bool = False,
    engine_name: str = DEFAULT_ENGINE,
) -> Job:
    """Decide a build. Raises `RefusedError` for what cannot be served, before the hub is asked for
    anything of a known model, and `BadInputError` for a checkpoint that is not to be had or not
    whole."""
    target, quant, chosen = gpu(gpu_name), quant_named(quant_name), engine(engine_name)
    source = resolve(checkpoint)
    plan = planner.plan(source.model, target, quant, workload, chosen)
    planner.require_buildable(plan)
    chosen.require_tools(plan)
    options = options_for(
        quant_name,
        calibration=calibration,
        smooth=smooth,
        device=device,
        heldout=heldout,
        low_disk=low_disk,
    )
    source = opened(source)
    source.opened.require_complete()
    require_low_disk_source(source, options)
    out = out or BUNDLES / bundle_name(source.slug, plan)
    return Job(source, plan, options, out)


def dry_run(job: Job) -> list[dict[str, Any]]:
    """What `build` would do: every stage, and whether it would be made or is there already."""
    bundle = Bundle.open(job.out) if (job.out / RECORD_NAME).exists() else None
    return [
        {
            "stage": stage.name,
            "action": "keep" if bundle and bundle.stage_is_current(stage.name, stage.inputs)
            else "make",
            "what": stage.what,
        }
        for stage in _stages(job, Silent())
    ]  # fmt: skip


def to_fetch(job: Job) -> dict[str, Any] | None:
    """What `build` would fetch from the hub (see `fetching.fetch_plan`), or None for nothing."""
    stages = dry_run(job)
    return fetch_plan(job.source, job.options) if stages[0]["action"] == "make" else None


def build(job: Job, progress: Progress | None = None) -> dict[str, Any]:
    """Make the bundle, or what is missing or outdated of it; gives what `build --json` prints."""
    progress = progress or Silent()
    made = []
    with building(job.out, job.header) as bundle:
        for stage in _stages(job, progress):
            if not bundle.stage_is_current(stage.name, stage.inputs):
                stage.make(bundle)
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
        "backend": job.plan.engine.backend,
        "needs": list(job.plan.engine.needs),
        "reasons": list(job.plan.reasons),
    }


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage: the digest of all it depends on, what it holds, and what makes it."""

    name: str
    inputs: str
    what: str
    make: Callable[[Bundle], None]


def _stages(job: Job, progress: Progress) -> list[_Stage]:
    """The stages in order. A stage's digest covers the code's version too."""
    deployment, part = _deployment(job), job.plan.engine
    described = _inputs(asdict(deployment))
    checkpoint = _inputs({**job.source.fingerprint(), **job.options.identity()})

    def quantized(bundle: Bundle, work: Work) -> dict[str, Any]:
        record, report = quantize_into(job.source, job.options, work, progress)
        for name, content in files(report).items() if report else ():
            bundle.add_report(name, content)
        return record

    def model_repository(dest: Path) -> None:
        from .. import triton_repo

        triton_repo.emit(dest, deployment)

    def k8s(dest: Path) -> None:
        from .. import k8s as manifests

        manifests.emit(dest, deployment)

    def quick(name: str, inputs: str, what: str, make: Callable[[Path], None]) -> _Stage:
        def run(bundle: Bundle) -> None:
            progress.step(name)
            bundle.run_stage(name, inputs, make)

        return _Stage(name, inputs, what, run)

    return [
        _Stage(
            "checkpoint",
            checkpoint,
            f"{job.plan.weights_bytes / 1e9:.2f} GB of tensors: {job.options.recipe.summary}",
            lambda bundle: bundle.resume_stage(
                "checkpoint", checkpoint, partial(quantized, bundle)
            ),
        ),
        quick(
            "engine",
            _inputs(engine(part.name).inputs(job.plan), checkpoint),
            f"{'kernels, plugin, ' if part.plugin else ''}golden outputs and arguments for "
            f"{part.backend}, SM{job.plan.sm}",
            lambda dest: _emit_engine(dest, job, checkpoint, progress),
        ),
        quick(
            "model_repository",
            described,
            f"Triton model {deployment.model_name} for {deployment.image}",
            model_repository,
        ),
        quick(
            "k8s",
            described,
            f"kustomize tree for {', '.join(deployment.gpu.product_labels)}",
            k8s,
        ),
    ]


def _emit_engine(dest: Path, job: Job, checkpoint: str, progress: Progress) -> None:
    """Arguments, plugin, compiled kernels, golden outputs; `checkpoint` tells its weights apart."""
    model, advance = job.source.model, None

    def compiled(done: int, total: int) -> None:
        nonlocal advance
        advance = advance or progress.step("kernels", total, unit="kernels")
        advance(done)

    engine(job.plan.engine.name).emit(dest, job.plan, model, job.options.recipe, compiled)
    write_golden(dest, Bundle(job.out).checkpoint, checkpoint, model, progress)


def _deployment(job: Job) -> Deployment:
    plan = job.plan
    return Deployment(
        name=job.out_name,
        model_name=job.source.slug,
        image=plan.engine.image,
        gpu=gpu(plan.gpu),
        gpus=plan.gpus,
        quant=str(plan.quant["requested"]),
        bundle_bytes=plan.weights_bytes,
        max_batch_size=plan.concurrency,
        env=plan.engine.env,
    )


def _inputs(*parts: object) -> str:
    return digest_of([__version__, *parts])
