"""`build`: makes a bundle, stage by stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ..build.engines.registry import AUTO, planned, require_known
from ..build.engines.registry import DEFAULT as DEFAULT_ENGINE
from ..build.engines.registry import engine as engine_named
from ..build.planner import plan as planner
from ..build.planner.offers import Offer, hint, offers, preferred
from ..build.planner.verdict import Judge
from ..core.bundle import CHECKPOINT, STAGES, Bundle, building, require_place
from ..core.errors import UsageError
from ..core.progress import Progress, Silent
from ..core.record import RECORD_NAME
from ..k8s.options import ClusterOptions
from ..model.catalog import DEFAULT_CHECKPOINT
from ..model.catalog import gpu as gpu_named
from ..model.format_request import FormatRequest
from ..model.formats import Quant
from ..model.spec import Gpu, Plan, Workload
from ..quantize.options import Options
from ..sources.checkpoint_source import Source, opened, resolve
from ..sources.fetching import fetch_plan
from .build_result import BuildResult, BuildStep, DryRunResult
from .build_stages import Job, bundle_name, stages
from .cluster import cluster_warnings, rebuild_options, with_way
from .golden import require_recordable
from .plan import build_command
from .preflight import require_checkpoint_needs
from .quantize import require_low_disk_source
from .quantize_options import options_for, taking_over
from .stored_format import (
    as_stored,
    format_for,
    require_format_alone,
    require_no_calibration,
)

BUNDLES: Final = Path("dist")
"""Where bundles go when `--out` is not given."""


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
    cluster: ClusterOptions | None = None,
) -> Job:
    """Decide a build; writes nothing.

    Raises `UsageError` for an unknown GPU, format, engine or option value, `RefusedError` for what
    cannot be served, before the hub is asked for anything of a known model, and with
    `require_golden` where golden outputs cannot be recorded here, and `BadInputError` for a
    checkpoint that is missing or incomplete.
    """
    target = gpu_named(gpu_name)
    require_known(engine_name)
    wanted = require_format_alone(quant_name, recipe, group_size)
    source = resolve(checkpoint)
    texts = _Texts(calibration, smooth, heldout)
    quant, plan, offered = _planned(source, target, workload, engine_name, wanted)
    engine_named(plan.engine.name).require_tools(plan)
    if require_golden:
        require_recordable(source.model)
    options = _options(source, quant, plan, texts, device, low_disk)
    if source.checkpoint is None:
        source = opened(source)
        quant, plan, offered = _planned(source, target, workload, engine_name, wanted)
        options = _options(source, quant, plan, texts, device, low_disk)
    source.opened.require_complete()
    require_low_disk_source(source, options)
    out = out or BUNDLES / bundle_name(source.slug, plan)
    better = hint(offered, plan.engine.name, build_command(checkpoint, plan))
    return Job(
        source,
        plan,
        options,
        out,
        require_golden,
        offered,
        better,
        with_way(cluster or ClusterOptions(), source, options, wanted),
        rebuild_options(source, plan, options, workload, wanted, require_golden),
    )


@dataclass(frozen=True, slots=True)
class _Texts:
    """The options of `build` that are about quantizing."""

    calibration: Path | None
    smooth: bool | None
    heldout: Path | None


def _options(
    source: Source, quant: Quant, plan: Plan, texts: _Texts, device: str, low_disk: bool
) -> Options:
    """How the checkpoint of `source` is quantized for the engine of `plan`, or that it is taken
    over. Raises as `options_for` and `require_no_calibration`."""
    layout = engine_named(plan.engine.name).layout(quant.recipe)
    if source.stored is not None:
        require_no_calibration(source, **asdict(texts))
        return taking_over(quant.recipe, layout=layout, device=device, low_disk=low_disk)
    return options_for(
        quant.recipe, layout=layout, **asdict(texts), device=device, low_disk=low_disk
    )


def _planned(
    source: Source, gpu: Gpu, workload: Workload, engine_name: str, wanted: FormatRequest | None
) -> tuple[Quant, Plan, tuple[Offer, ...]]:
    """The format that is wanted, or that of a quantized checkpoint, its plan, and what all engines
    offer. Raises `UsageError` where there is neither, `RefusedError` for what cannot be served."""
    quant = format_for(source, wanted)
    if quant is None:
        raise UsageError(
            "missing option '--quant': only a checkpoint that is quantized already says its format "
            "(see nemo-deploy build --help)"
        )
    stored = source.stored.quant if source.stored else None
    offered = offers(Judge(source.model, stored), gpu, quant, workload)
    chosen = planned(preferred(offered) if engine_name == AUTO else engine_name)
    plan = planner.plan(source.model, gpu, quant, workload, chosen, stored=stored)
    planner.require_buildable(plan)
    return quant, as_stored(plan, source, chosen), offered


def dry_run(job: Job) -> DryRunResult:
    """What `make` would do with every stage, and what it would download; writes nothing.

    Checks everything that `make` checks before it writes. Raises `BadInputError` for what the
    stages to be made lack, and for a bundle at `job.out` that cannot be read.
    """
    require_place(job.out)
    bundle = Bundle.open(job.out) if (job.out / RECORD_NAME).exists() else None
    steps = []
    for stage in stages(job, Silent()):
        why = stage.why_outdated(bundle)
        steps.append(BuildStep(stage.name, "make" if why else "keep", stage.what, why))
    if steps[0].action == "keep":
        return _preview(job, steps, None, cluster_warnings(job.cluster))
    place, purpose = job.out / CHECKPOINT, "recording golden outputs"
    fetch = fetch_plan(job.source, job.options, place)  # before small files are fetched
    warnings = require_checkpoint_needs(job.source, job.options, place, purpose)
    return _preview(job, steps, fetch, (*warnings, *cluster_warnings(job.cluster)))


def _preview(
    job: Job, steps: list[BuildStep], fetch: dict[str, Any] | None, warnings: tuple[str, ...]
) -> DryRunResult:
    return DryRunResult(
        bundle=job.out,
        stages=tuple(steps),
        fetch=fetch,
        warnings=warnings,
        concessions=job.plan.concessions,
        engine=job.plan.engine.name,
        engines=job.offers,
        engine_hint=job.hint,
    )


def make(job: Job, progress: Progress | None = None) -> BuildResult:
    """Make the bundle, or what is missing or outdated of it.

    An interrupted run leaves what it finished; the same job resumes it. Raises `BadInputError` for
    a directory that cannot be written or holds something else, and as the stages do.
    """
    progress = progress or Silent()
    warnings = dry_run(job).warnings
    made = []
    with building(job.out, job.header) as bundle:
        for stage in stages(job, progress):
            if stage.why_outdated(bundle):
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
        engine=job.plan.engine.name,
        engines=job.offers,
        engine_hint=job.hint,
        weights=job.cluster.weights or "job",
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
    cluster: ClusterOptions | None = None,
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
        engine: What generates tokens in production: `tensorrt-llm`, `vllm`, or `auto` for the
            first of them that needs nothing unproven.
        require_golden: Whether a server of the bundle must be checked before it is ready.
        cluster: How the bundle gets to the cluster, and what the cluster is like.
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
        cluster=cluster,
    )
    return make(job, progress)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
