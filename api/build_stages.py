"""The stages of a bundle: what each is made from, and what makes it. The one place where the rooms
meet."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ..build.engines.registry import engine
from ..build.planner.offers import Offer
from ..core.bundle import CHECKPOINT, Bundle, MadeFrom
from ..core.files import Work, digest_of
from ..core.progress import Progress
from ..core.record import Header
from ..core.result import plain
from ..core.sizes import size_text
from ..core.source_digest import source_digest
from ..k8s.options import ClusterOptions
from ..k8s.release import Release
from ..model.catalog import gpu as gpu_named
from ..model.spec import Deployment, Plan
from ..quantize.encoding import ENCODING
from ..quantize.options import Options
from ..runtime.contract import GOLDEN
from ..sources.checkpoint_source import Source
from .golden import GoldenJob, write_golden
from .quality import files
from .quantize import quantize_into
from .stored_format import layout_note

SOURCES: Final = {
    "engine": (
        "api/golden.py",
        "build/engines",
        "quantize/fidelity.py",
        "quantize/forced.py",
        "quantize/golden_texts.py",
        "quantize/layerwise.py",
        "quantize/quantized_reader.py",
        "quantize/recording.py",
        "quantize/roundings.py",
        "quantize/texts.py",
        "runtime/formats.py",
        "runtime/golden.py",
    ),
    "model_repository": ("runtime", "triton_repo/repository.py"),
    "k8s": ("k8s", "runtime/check_bundle.py", "runtime/contract"),
}
"""The code that writes each generated stage or is copied into it: a change there, and no other
change of this package, has the stage made again."""

PLUGIN_SOURCES: Final = ("build/kernels", "build/plugin")
"""What an engine with the plugin is made from besides."""


@dataclass(frozen=True, slots=True)
class Job:
    """A build, decided: nothing is written before all of this is known to be possible. `offers` are
    those of all engines, `hint` names one that may suit better. `cluster` is for the manifests,
    and `command` holds the options of `nemo-deploy build` that make the same bundle elsewhere."""

    source: Source
    plan: Plan
    options: Options
    out: Path
    require_golden: bool = False
    offers: tuple[Offer, ...] = ()
    hint: str | None = None
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    command: tuple[str, ...] = ()

    @property
    def header(self) -> Header:
        """What `bundle.json` says besides stages and files."""
        calibration = self.options.calibration
        return Header(
            name=self.out_name,
            model_name=self.source.slug,
            asked={
                "checkpoint": self.source.asked,
                "gpu": self.plan.gpu,
                "gpus": self.plan.gpus,
                "quant": self.plan.quant["requested"],
                "engine": self.plan.engine.name,
                "calibration": str(calibration) if calibration else None,
                "smooth": self.options.smooth,
                "cluster": asdict(self.cluster),
            },
            backend=self.plan.engine.backend,
            needs=tuple(self.plan.engine.needs),
        )

    @property
    def out_name(self) -> str:
        return bundle_name(self.source.slug, self.plan)


def bundle_name(slug: str, plan: Plan) -> str:
    """For example `nemotron-3-nano-30b-a3b-h100-int4`; more than one GPU is said."""
    count = f"-x{plan.gpus}" if plan.gpus > 1 else ""
    return f"{slug}-{plan.gpu}{count}-{plan.quant['requested']}"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: what it is made from, what it holds, and what makes it."""

    name: str
    made_from: Callable[[Bundle | None], MadeFrom]
    what: str
    make: Callable[[Bundle], None]

    def why_outdated(self, bundle: Bundle | None) -> str | None:
        """Why it has to be made, in words; None where the bundle has it as it is to be."""
        if bundle is None:
            return "there is no bundle yet"
        return bundle.why_outdated(self.name, self.made_from(bundle))


def stages(job: Job, progress: Progress) -> list[Stage]:
    """The stages in order."""
    served = served_from(job)
    checkpoint = served[CHECKPOINT]
    deployment, part = _deployment(job), job.plan.engine

    def make_checkpoint(bundle: Bundle) -> None:
        def quantized(work: Work) -> dict[str, Any]:
            written, report = quantize_into(job.source, job.options, work, progress)
            for name, content in files(report).items() if report else ():
                bundle.add_report(name, content)
            made: dict[str, Any] = plain(written)
            return made

        bundle.resume_stage(CHECKPOINT, checkpoint, quantized)

    def make_engine(bundle: Bundle) -> None:
        progress.step("engine")
        bundle.resume_stage(
            "engine",
            served["engine"],
            lambda work: _emit_engine(work, bundle, job, str(checkpoint), progress),
        )

    def make_repository(bundle: Bundle) -> None:
        from .. import triton_repo

        progress.step("model_repository")
        made_from = served["model_repository"]
        bundle.run_stage(
            "model_repository", made_from, lambda dest: triton_repo.emit(dest, deployment)
        )

    def manifests_from(bundle: Bundle | None) -> MadeFrom:
        return _manifests_from(job, deployment, served, bundle)

    def make_manifests(bundle: Bundle) -> None:
        from .. import k8s

        progress.step("k8s")
        release = _release(job, deployment, bundle)
        bundle.run_stage("k8s", manifests_from(bundle), lambda dest: k8s.emit(dest, release))

    return [
        Stage(
            CHECKPOINT,
            lambda _: checkpoint,
            f"{size_text(job.plan.weights_bytes)} of tensors{_how(job)}: "
            f"{job.options.recipe.summary}",
            make_checkpoint,
        ),
        Stage(
            "engine",
            lambda _: served["engine"],
            f"{'kernels, plugin, ' if part.plugin else ''}golden outputs and arguments for "
            f"{part.backend}, SM{job.plan.sm}",
            make_engine,
        ),
        Stage(
            "model_repository",
            lambda _: served["model_repository"],
            f"Triton model {deployment.model_name} for {deployment.image}",
            make_repository,
        ),
        Stage(
            "k8s",
            manifests_from,
            f"kustomize tree for {', '.join(deployment.gpu.product_labels)}",
            make_manifests,
        ),
    ]


def served_from(job: Job) -> dict[str, MadeFrom]:
    """What each of the served stages is made from, by its name."""
    part = job.plan.engine
    checkpoint = MadeFrom(
        f"encoding {ENCODING}", digest_of([job.source.fingerprint(), job.options.identity()])
    )
    inputs = digest_of([engine(part.name).inputs(job.plan), str(checkpoint), job.require_golden])
    more = PLUGIN_SOURCES if part.plugin else ()
    return {
        CHECKPOINT: checkpoint,
        "engine": MadeFrom(f"sources {source_digest(*SOURCES['engine'], *more)}", inputs),
        "model_repository": _generated("model_repository", asdict(_deployment(job))),
    }


def _generated(stage: str, inputs: object) -> MadeFrom:
    return MadeFrom(f"sources {source_digest(*SOURCES[stage])}", digest_of(inputs))


def _manifests_from(
    job: Job, deployment: Deployment, served: Mapping[str, MadeFrom], bundle: Bundle | None
) -> MadeFrom:
    """The manifests name the bundle: with the ways `claim` and `image` by the files it has."""
    names = {name: str(made_from) for name, made_from in served.items()}
    whole = bundle is not None and served.keys() <= bundle.record.stages.keys()
    if job.cluster.weights == "job":
        named_by: object = job.command
    else:
        named_by = bundle.files_digest if bundle and whole else None
    return _generated("k8s", [asdict(deployment), asdict(job.cluster), names, named_by])


def _release(job: Job, deployment: Deployment, bundle: Bundle) -> Release:
    if job.cluster.weights != "job":
        return Release(deployment, bundle.files_digest, options=job.cluster)
    keeps = job.source.snapshot is not None and not job.options.low_disk
    kept_bytes = job.source.opened.bytes if keeps else 0
    return Release(deployment, bundle.inputs_digest, job.command, kept_bytes, job.cluster)


def _how(job: Job) -> str:
    """What becomes of a checkpoint that is quantized already, in words."""
    if not job.options.taken_over:
        return ""
    other = layout_note(job.source.opened, engine(job.plan.engine.name))
    return ", laid out anew" if other else ", taken over"


def _emit_engine(work: Work, bundle: Bundle, job: Job, checkpoint: str, progress: Progress) -> None:
    """Arguments, plugin, compiled kernels, golden outputs; `checkpoint` tells its weights apart."""
    model, advance = job.source.model, None

    def compiled(done: int, total: int) -> None:
        nonlocal advance
        advance = advance or progress.step("kernels", total, unit="kernels")
        advance(done)

    # Made anew also where a build is resumed: compiled kernels are in the cache, and what takes
    # time, the layers of golden outputs, is kept in `work.state`, for exactly these weights.
    shutil.rmtree(work.content)
    work.content.mkdir()
    made = engine(job.plan.engine.name)
    made.emit(work.content, job.plan, model, job.options.recipe, job.out / CHECKPOINT, compiled)
    weights = digest_of(bundle.stage_digests(CHECKPOINT))
    layers = work.state / f"golden-{weights[:16]}"
    layers.mkdir(exist_ok=True)
    golden = GoldenJob(
        job.out / CHECKPOINT,
        checkpoint,
        job.source,
        job.options.recipe,
        job.plan.serving,
        job.options.device,
        layers,
        job.require_golden,
    )
    write_golden(work.content, golden, progress)


def _deployment(job: Job) -> Deployment:
    plan = job.plan
    required = {GOLDEN.name: "require"} if job.require_golden else {}
    return Deployment(
        name=job.out_name,
        model_name=job.source.slug,
        image=plan.engine.image,
        gpu=gpu_named(plan.gpu),
        gpus=plan.gpus,
        quant=str(plan.quant["requested"]),
        bundle_bytes=plan.weights_bytes,
        executor=plan.engine.executor,
        max_batch_size=plan.concurrency,
        env={**plan.engine.env, **required},
    )
