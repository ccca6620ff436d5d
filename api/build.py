"""`build`: makes a bundle, stage by stage. The one place where the rooms meet."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from ..build.engines.base import Engine
from ..build.engines.registry import DEFAULT as DEFAULT_ENGINE
from ..build.engines.registry import engine
from ..build.planner import plan as planner
from ..core.bundle import CHECKPOINT, STAGES, Bundle, MadeFrom, building, require_place
from ..core.errors import UsageError
from ..core.files import Work, digest_of
from ..core.progress import Progress, Silent
from ..core.record import RECORD_NAME, Header
from ..core.result import Result, plain
from ..core.sizes import size_text
from ..core.source_digest import source_digest
from ..model.catalog import DEFAULT_CHECKPOINT
from ..model.catalog import gpu as gpu_named
from ..model.format_request import FormatRequest
from ..model.formats import Quant
from ..model.spec import Concession, Deployment, Gpu, Plan, Workload
from ..quantize.encoding import ENCODING
from ..quantize.options import Options
from ..runtime.contract import GOLDEN
from ..sources.checkpoint_source import Source, opened, resolve
from ..sources.fetching import fetch_plan
from .golden import GoldenJob, require_recordable, write_golden
from .preflight import require_checkpoint_needs
from .quality import files
from .quantize import quantize_into, require_low_disk_source
from .quantize_options import options_for, taking_over
from .stored_format import (
    as_stored,
    format_for,
    layout_note,
    require_format_alone,
    require_no_calibration,
)

BUNDLES: Final = Path("dist")
"""Where bundles go when `--out` is not given."""

SOURCES: Final = {
    "engine": (
        "api/golden.py",
        "build/engines",
        "quantize/fidelity.py",
        "quantize/forced.py",
        "quantize/golden_texts.py",
        "quantize/layerwise.py",
        "quantize/recording.py",
        "runtime/formats.py",
        "runtime/golden.py",
    ),
    "model_repository": ("runtime", "triton_repo/repository.py"),
    "k8s": ("k8s", "runtime/check_bundle.py", "runtime/contract.py"),
}
"""The code that writes each generated stage or is copied into it: a change there, and no other
change of this package, has the stage made again."""

PLUGIN_SOURCES: Final = ("build/kernels", "build/plugin")
"""What an engine with the plugin is made from besides."""


@dataclass(frozen=True, slots=True)
class BuildResult(Result):
    """A bundle that is complete.

    Attributes:
        bundle: Its directory.
        name: Its name, which is also that of the Kubernetes objects.
        model_name: The name under which the model is served.
        made: Stages that this build made, in order.
        kept: Stages that were up to date.
        files: Number of files.
        bytes: Their size.
        checkpoint_bytes: The size of the quantized checkpoint.
        backend: The engine's backend.
        needs: What serving it needs beyond a released engine.
        reasons: Why the plan is what it is.
        calibration: The calibration text of the checkpoint; None without calibration.
        thin: Why that text is too little; None where it is enough.
        warnings: Sentences about the source.
        concessions: What the server gives up so that the model fits.
    """

    SCHEMA: ClassVar[int] = 1

    bundle: Path
    name: str
    model_name: str
    made: tuple[str, ...]
    kept: tuple[str, ...]
    files: int
    bytes: int
    checkpoint_bytes: int
    backend: str
    needs: tuple[str, ...]
    reasons: tuple[str, ...]
    calibration: str | None
    thin: str | None
    warnings: tuple[str, ...]
    concessions: tuple[Concession, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildStep:
    """What a build would do with one stage: `action` is `make` or `keep`; `why` it would be made,
    None where it is kept."""

    stage: str
    action: str
    what: str
    why: str | None


@dataclass(frozen=True, slots=True)
class DryRunResult(Result):
    """What a build would do. `fetch` is what it would download and the disk that this takes (see
    `sources.fetching.fetch_plan`), None for nothing; `warnings` are sentences about the source,
    `concessions` what the server gives up so that the model fits."""

    SCHEMA: ClassVar[int] = 1

    bundle: Path
    stages: tuple[BuildStep, ...]
    fetch: dict[str, Any] | None
    warnings: tuple[str, ...]
    concessions: tuple[Concession, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """A build, decided: nothing is written before all of this is known to be possible."""

    source: Source
    plan: Plan
    options: Options
    out: Path
    require_golden: bool = False

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
                "calibration": str(calibration) if calibration else None,
                "smooth": self.options.smooth,
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


def prepare(
    checkpoint: str,
    gpu_name: str,
    quant_name: str | None,
    workload: Workload,
    out: Path | None = None,
    *,
    group_size: int | None = None,
    recipe: str | None = None,
    calibration: Path | None = None,
    smooth: bool | None = None,
    device: str = "auto",
    heldout: Path | None = None,
    low_disk: bool = False,
    engine_name: str = DEFAULT_ENGINE,
    require_golden: bool = False,
) -> Job:
    """Decide a build; writes nothing.

    Raises `UsageError` for an unknown GPU, format, engine or option value, `RefusedError` for what
    cannot be served, before the hub is asked for anything of a known model, and with
    `require_golden` where golden outputs cannot be recorded here, and `BadInputError` for a
    checkpoint that is missing or incomplete.
    """
    target, chosen = gpu_named(gpu_name), engine(engine_name)
    wanted = require_format_alone(quant_name, recipe, group_size)
    source = resolve(checkpoint)
    texts = _Texts(calibration, smooth, heldout)
    quant, plan = _planned(source, target, workload, chosen, wanted)
    chosen.require_tools(plan)
    if require_golden:
        require_recordable(source.model)
    options = _options(source, quant, texts, device, low_disk)
    if source.checkpoint is None:
        source = opened(source)
        quant, plan = _planned(source, target, workload, chosen, wanted)
        options = _options(source, quant, texts, device, low_disk)
    source.opened.require_complete()
    require_low_disk_source(source, options)
    out = out or BUNDLES / bundle_name(source.slug, plan)
    return Job(source, plan, options, out, require_golden)


@dataclass(frozen=True, slots=True)
class _Texts:
    """The options of `build` that are about quantizing."""

    calibration: Path | None
    smooth: bool | None
    heldout: Path | None


def _options(source: Source, quant: Quant, texts: _Texts, device: str, low_disk: bool) -> Options:
    """How the checkpoint of `source` is quantized, or that it is taken over. Raises as
    `options_for` and `require_no_calibration`."""
    if source.stored is not None:
        require_no_calibration(source, **asdict(texts))
        return taking_over(quant.recipe, device=device, low_disk=low_disk)
    return options_for(quant.recipe, **asdict(texts), device=device, low_disk=low_disk)


def _planned(
    source: Source, gpu: Gpu, workload: Workload, chosen: Engine, wanted: FormatRequest | None
) -> tuple[Quant, Plan]:
    """The format that is wanted, or that of a quantized checkpoint, and its plan. Raises
    `UsageError` where there is neither, `RefusedError` for what cannot be served."""
    quant = format_for(source, wanted)
    if quant is None:
        raise UsageError(
            "missing option '--quant': only a checkpoint that is quantized already says its format "
            "(see nemo-deploy build --help)"
        )
    stored = source.stored.quant if source.stored else None
    plan = planner.plan(source.model, gpu, quant, workload, chosen, stored=stored)
    planner.require_buildable(plan)
    return quant, as_stored(plan, source)


def dry_run(job: Job) -> DryRunResult:
    """What `make` would do with every stage, and what it would download; writes nothing.

    Checks everything that `make` checks before it writes. Raises `BadInputError` for what the
    stages to be made lack, and for a bundle at `job.out` that cannot be read.
    """
    require_place(job.out)
    bundle = Bundle.open(job.out) if (job.out / RECORD_NAME).exists() else None
    steps = []
    for stage in _stages(job, Silent()):
        why = bundle.why_outdated(stage.name, stage.made_from) if bundle else _NO_BUNDLE
        steps.append(BuildStep(stage.name, "make" if why else "keep", stage.what, why))
    if steps[0].action == "keep":
        return DryRunResult(job.out, tuple(steps), None, (), job.plan.concessions)
    fetch = fetch_plan(job.source, job.options)  # before small files are fetched to check them
    purpose = "recording golden outputs"
    warnings = require_checkpoint_needs(job.source, job.options, job.out / CHECKPOINT, purpose)
    return DryRunResult(job.out, tuple(steps), fetch, warnings, job.plan.concessions)


_NO_BUNDLE: Final = "there is no bundle yet"


def make(job: Job, progress: Progress | None = None) -> BuildResult:
    """Make the bundle, or what is missing or outdated of it.

    An interrupted run leaves what it finished; the same job resumes it. Raises `BadInputError` for
    a directory that cannot be written or holds something else, and as the stages do.
    """
    progress = progress or Silent()
    warnings = dry_run(job).warnings
    made = []
    with building(job.out, job.header) as bundle:
        for stage in _stages(job, progress):
            if bundle.why_outdated(stage.name, stage.made_from):
                stage.make(bundle)
                made.append(stage.name)
    written = bundle.record.stages[CHECKPOINT].made or {}
    calibration: dict[str, Any] = written.get("calibration") or {}
    return BuildResult(
        bundle=job.out,
        name=bundle.name,
        model_name=bundle.model_name,
        made=tuple(made),
        kept=tuple(name for name in STAGES if name not in made),
        files=len(bundle.files),
        bytes=bundle.total_bytes,
        checkpoint_bytes=bundle.stage_bytes("checkpoint"),
        backend=job.plan.engine.backend,
        needs=tuple(job.plan.engine.needs),
        reasons=tuple(job.plan.reasons),
        concessions=job.plan.concessions,
        calibration=calibration.get("source"),
        thin=calibration.get("thin"),
        warnings=warnings,
    )


def build(
    checkpoint: str = DEFAULT_CHECKPOINT,
    *,
    gpu: str,
    quant: str | None = None,
    out: str | Path | None = None,
    group_size: int | None = None,
    recipe: str | None = None,
    gpus: int = 1,
    context: int | None = None,
    concurrency: int | None = None,
    max_num_tokens: int | None = None,
    mamba_state: str | None = None,
    kv_cache: str | None = None,
    calibration: str | Path | None = None,
    smooth: bool | None = None,
    heldout: str | Path | None = None,
    device: str = "auto",
    low_disk: bool = False,
    engine: str = DEFAULT_ENGINE,
    require_golden: bool = False,
    progress: Progress | None = None,
) -> BuildResult:
    """Make a bundle: a quantized checkpoint, an engine, a model repository and manifests.

    Stages that are up to date are kept, and an interrupted build is resumed. `prepare` and `make`
    are its two halves: the first decides, the second writes.

    Args:
        checkpoint: `tiny`, a local directory, a known model or a repository of the hub.
        gpu: The GPU it is for, for example `h100`.
        quant: The format: `bf16`, `fp8`, `int8`, `int4` or `nvfp4`. That of a checkpoint that is
            quantized already is its own.
        out: The bundle's directory; by default `dist/<model>-<gpu>-<quant>`.
        group_size: Weights that share a scale, for INT4 and INT8; 0 for whole rows of INT8.
        recipe: `published`, `conservative`, `aggressive` or a YAML file; by default the one that
            was published for the model, else `conservative`.
        gpus: Number of GPUs that share the model.
        context: Longest context in tokens; by default the longest that fits.
        concurrency: Number of requests at once.
        max_num_tokens: Tokens of one step of the server; by default 8192, fewer where memory is
            short.
        mamba_state: `float32`, `bfloat16` or `float16`; by default `float32`, 16 bits where memory
            is short.
        kv_cache: `bf16` or `fp8`; by default as the format says, `fp8` where memory is short.
        calibration: A text file to calibrate with instead of the built-in text.
        smooth: Whether to smooth INT4 experts; by default where it does something.
        heldout: A text file on which the result is compared with its source.
        device: `cpu`, `cuda` or `auto`, for calibrating and for golden outputs.
        low_disk: Whether to delete each downloaded shard once its output is written.
        engine: What generates tokens in production.
        require_golden: Whether a server of the bundle must be checked before it is ready.
        progress: Receives what is being done.

    Raises `UsageError`, `RefusedError` and `BadInputError` as `prepare` and `make`, and
    `CheckFailedError` where the quantized checkpoint is not what its source says.
    """
    workload = Workload(
        context=context,
        concurrency=concurrency,
        gpus=gpus,
        max_num_tokens=max_num_tokens,
        mamba_state=mamba_state,
        kv_cache=kv_cache,
    )
    job = prepare(
        checkpoint,
        gpu,
        quant,
        workload,
        _path(out),
        group_size=group_size,
        recipe=recipe,
        calibration=_path(calibration),
        smooth=smooth,
        device=device,
        heldout=_path(heldout),
        low_disk=low_disk,
        engine_name=engine,
        require_golden=require_golden,
    )
    return make(job, progress)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage: what it is made from, what it holds, and what makes it."""

    name: str
    made_from: MadeFrom
    what: str
    make: Callable[[Bundle], None]


def _stages(job: Job, progress: Progress) -> list[_Stage]:
    """The stages in order."""
    deployment, part = _deployment(job), job.plan.engine
    described = digest_of(asdict(deployment))
    checkpoint = MadeFrom(
        f"encoding {ENCODING}", digest_of([job.source.fingerprint(), job.options.identity()])
    )

    def quantized(bundle: Bundle, work: Work) -> dict[str, Any]:
        written, report = quantize_into(job.source, job.options, work, progress)
        for name, content in files(report).items() if report else ():
            bundle.add_report(name, content)
        made: dict[str, Any] = plain(written)
        return made

    def model_repository(dest: Path) -> None:
        from .. import triton_repo

        triton_repo.emit(dest, deployment)

    def k8s(dest: Path) -> None:
        from .. import k8s as manifests

        manifests.emit(dest, deployment)

    def generated(name: str, inputs: str, what: str, emit: Callable[[Path], None]) -> _Stage:
        made_from = MadeFrom(f"sources {source_digest(*SOURCES[name])}", inputs)

        def run(bundle: Bundle) -> None:
            progress.step(name)
            bundle.run_stage(name, made_from, emit)

        return _Stage(name, made_from, what, run)

    engine_from = MadeFrom(
        f"sources {source_digest(*SOURCES['engine'], *(PLUGIN_SOURCES if part.plugin else ()))}",
        digest_of([engine(part.name).inputs(job.plan), str(checkpoint), job.require_golden]),
    )

    def make_engine(bundle: Bundle) -> None:
        progress.step("engine")
        bundle.resume_stage(
            "engine",
            engine_from,
            lambda work: _emit_engine(work, bundle, job, str(checkpoint), progress),
        )

    return [
        _Stage(
            "checkpoint",
            checkpoint,
            f"{size_text(job.plan.weights_bytes)} of tensors{_how(job)}: "
            f"{job.options.recipe.summary}",
            lambda bundle: bundle.resume_stage(
                "checkpoint", checkpoint, partial(quantized, bundle)
            ),
        ),
        _Stage(
            "engine",
            engine_from,
            f"{'kernels, plugin, ' if part.plugin else ''}golden outputs and arguments for "
            f"{part.backend}, SM{job.plan.sm}",
            make_engine,
        ),
        generated(
            "model_repository",
            described,
            f"Triton model {deployment.model_name} for {deployment.image}",
            model_repository,
        ),
        generated(
            "k8s",
            described,
            f"kustomize tree for {', '.join(deployment.gpu.product_labels)}",
            k8s,
        ),
    ]


def _how(job: Job) -> str:
    """What becomes of a checkpoint that is quantized already, in words."""
    if not job.options.taken_over:
        return ""
    return ", laid out anew" if layout_note(job.source.opened) else ", taken over"


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
    engine(job.plan.engine.name).emit(work.content, job.plan, model, job.options.recipe, compiled)
    weights = digest_of(bundle.stage_digests(CHECKPOINT))
    layers = work.state / f"golden-{weights[:16]}"
    layers.mkdir(exist_ok=True)
    golden = GoldenJob(
        job.out / CHECKPOINT,
        checkpoint,
        job.source,
        job.options.recipe,
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
        max_batch_size=plan.concurrency,
        env={**plan.engine.env, **required},
    )
