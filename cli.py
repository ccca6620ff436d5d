"""The command line: parse, call one verb, render. Verbs are imported when they are called, so that
`--help` stays instant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options as opt
from .errors import CheckFailedError, RefusedError, UsageError
from .models import DEFAULT_CHECKPOINT
from .spec import Workload
from .terminal import console, exit_code, printed, progress, show_fetch

app = typer.Typer(
    name="nemo-deploy",
    help="From a Nemotron 3 checkpoint to a quantized, verified, load-tested deployment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich's help takes twice as long to start as all else
)


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """The options before a command. `run` reads `--debug`, which must work from the first line."""


@app.command()
def inspect(
    checkpoint: opt.CheckpointOption = DEFAULT_CHECKPOINT, as_json: opt.JsonOption = False
) -> None:
    """Say what a model is and what it weighs."""
    from .verbs.inspect import inspect as work

    found = work(checkpoint)
    if not printed(as_json, found):
        from .views.model import inspection

        inspection(console(), found)


@app.command()
def plan(
    gpu: opt.AnyGpuOption = None,
    quant: opt.AnyQuantOption = None,
    checkpoint: opt.CheckpointOption = DEFAULT_CHECKPOINT,
    gpus: opt.GpusOption = 1,
    context: opt.ContextOption = None,
    concurrency: opt.ConcurrencyOption = None,
    isl: opt.IslOption = 1024,
    osl: opt.OslOption = 256,
    matrix: opt.MatrixOption = False,
    optimize: opt.OptimizeOption = "cost",
    price: opt.PriceOption = None,
    max_tpot: opt.MaxTpotOption = 50.0,
    calibrate_from: opt.CalibrateFromOption = None,
    trtllm: opt.TrtllmOption = None,
    against: opt.AgainstOption = None,
    html: opt.HtmlOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Say what fits, who can run it, how fast, and what it costs."""
    from .verbs import plan as verb

    asked = verb.Question(
        checkpoint,
        Workload(context, concurrency, isl, osl, gpus),
        gpu=gpu,
        quant=quant,
        price=price,
        max_tpot_ms=max_tpot,
        optimize=optimize,
        calibrate_from=calibrate_from,
        trtllm=trtllm,
        against=against,
    )
    if matrix:
        found = verb.compare(asked)
        if html is not None:
            from .views.plan_page import write

            write(html, found)
        if not printed(as_json, found.to_json()):
            from .views.plan import matrix as view

            view(console(), found)
        return
    answer = verb.plan(asked)
    if html is not None:
        from .views.plan_page import write

        write(html, answer)
    if not printed(as_json, answer.to_json()):
        from .views.plan import plan as show

        show(console(), answer)
    if answer.plan.refused:
        raise typer.Exit(RefusedError.exit_code)


@app.command()
def quantize(
    quant: opt.FormatOption = None,
    out: opt.NewDirectoryOption = None,
    checkpoint: opt.CheckpointOption = DEFAULT_CHECKPOINT,
    layout: opt.LayoutOption = "modelopt",
    group_size: opt.GroupSizeOption = None,
    fp8_layers: opt.Fp8LayersOption = None,
    calibration: opt.CalibrationOption = None,
    smooth: opt.SmoothOption = None,
    heldout: opt.HeldoutOption = None,
    device: opt.DeviceOption = "auto",
    low_disk: opt.LowDiskOption = False,
    compare: opt.CompareOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Write a checkpoint in another format; interrupted runs go on."""
    if compare is not None:
        unused = {
            "--quant": quant,
            "--group-size": group_size,
            "--fp8-layers": fp8_layers,
            "--low-disk": low_disk or None,
        }
        for option, value in unused.items():
            if value is not None:
                raise UsageError(f"--compare names formats itself; leave {option} out")
        _compare(checkpoint, compare, out, calibration, heldout, device, as_json)
        return
    if quant is None or out is None:
        raise UsageError(f"give {'--quant, or --compare' if quant is None else '--out'}")
    from .verbs.fetching import fetch_plan
    from .verbs.quantize import quantize as work
    from .verbs.quantize_options import options_for
    from .verbs.source import open_source

    options = options_for(
        quant,
        layout=layout,
        group_size=group_size,
        fp8_layers=fp8_layers,
        calibration=calibration,
        smooth=smooth,
        device=device,
        heldout=heldout,
        low_disk=low_disk,
    )
    source = open_source(checkpoint)
    show_fetch(fetch_plan(source, options))
    with progress(as_json) as told:
        record = work(source, options, out, told)
    if not printed(as_json, record):
        from .views.results import quantization

        quantization(console(), record)


def _compare(
    checkpoint: str,
    formats: str,
    out: Path | None,
    calibration: Path | None,
    heldout: Path | None,
    device: str,
    as_json: bool,
) -> None:
    from .verbs.quality import brief
    from .verbs.quality import compare as work

    with progress(as_json) as told:
        report = work(
            checkpoint,
            formats,
            out=out,
            calibration=calibration,
            heldout=heldout,
            device=device,
            progress=told,
        )
    if not printed(as_json, brief(report)):
        from .views.quality import comparison

        comparison(console(), report, out)


@app.command()
def build(
    gpu: opt.GpuOption,
    quant: opt.QuantOption,
    checkpoint: opt.CheckpointOption = DEFAULT_CHECKPOINT,
    out: Annotated[
        Path | None, typer.Option("--out", help="The bundle; default dist/<model>-<gpu>-<quant>.")
    ] = None,
    gpus: opt.GpusOption = 1,
    context: opt.ContextOption = None,
    concurrency: opt.ConcurrencyOption = None,
    calibration: opt.CalibrationOption = None,
    smooth: opt.SmoothOption = None,
    heldout: opt.HeldoutOption = None,
    device: opt.DeviceOption = "auto",
    low_disk: opt.LowDiskOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Make a bundle: weights, engine, repository, manifests.

    The checkpoint is quantized, the engine directory holds what TensorRT-LLM needs on this GPU, the
    model repository is Triton's, the manifests are for Kubernetes. An interrupted build goes on.
    """
    from .verbs import build as verb

    workload = Workload(context=context, concurrency=concurrency, gpus=gpus)
    job = verb.prepare(
        checkpoint,
        gpu,
        quant,
        workload,
        out,
        calibration=calibration,
        smooth=smooth,
        device=device,
        heldout=heldout,
        low_disk=low_disk,
    )
    fetch = verb.to_fetch(job)
    if dry_run:
        steps = verb.dry_run(job)
        if not printed(as_json, {"bundle": str(job.out), "stages": steps, "fetch": fetch}):
            from .views.results import dry_run as view

            show_fetch(fetch)
            view(console(), str(job.out), steps)
        return
    show_fetch(fetch)
    with progress(as_json) as told:
        record = verb.build(job, told)
    if not printed(as_json, record):
        from .views.results import built

        built(console(), record)


@app.command()
def verify(bundle: opt.BundleArgument, as_json: opt.JsonOption = False) -> None:
    """Check a bundle: digests, repository, engine, manifests."""
    from dataclasses import asdict

    from .verbs.verify import verify as work

    with progress(as_json) as told:
        checks = work(bundle, told)
    ok = all(check.ok for check in checks)
    if not printed(as_json, {"ok": ok, "checks": [asdict(check) for check in checks]}):
        from .views.results import checks as view

        view(console(), str(bundle), checks)
    if not ok:
        raise typer.Exit(CheckFailedError.exit_code)


@app.command()
def warmup(
    bundle: opt.BundleArgument,
    executor: opt.ExecutorOption = "auto",
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Where this node keeps what it compiles.")
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """On the node that will serve: compile, tune, check answers."""
    from .verbs.warmup import warmup as work

    with progress(as_json) as told:
        found = work(bundle, executor, cache, told)
    if not printed(as_json, found):
        from .views.results import warmed

        warmed(console(), found)
    if not found["ok"]:
        raise typer.Exit(CheckFailedError.exit_code)


@app.command()
def serve(
    bundle: opt.BundleArgument,
    executor: opt.ExecutorOption = "auto",
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
    as_json: opt.JsonOption = False,
) -> None:
    """Serve a bundle here with a real tritonserver."""
    from .verbs.serve import Ports
    from .verbs.serve import serve as work

    def ready(record: dict[str, str]) -> None:
        if not printed(as_json, record):
            from .views.results import serving

            serving(console(), record)

    with progress(as_json) as told:
        work(bundle, executor, Ports(http_port, grpc_port, metrics_port), ready, told)


@app.command()
def loadtest(
    target: opt.TargetArgument,
    concurrency: opt.LevelsOption = "1,4",
    rate: opt.RateOption = None,
    requests: opt.RequestsOption = None,
    max_tokens: opt.MaxTokensOption = 32,
    model: opt.ServedModelOption = None,
    slo: opt.SloOption = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Measure a server, or a bundle served here: latency, throughput."""
    from .loadtest import LoadTest
    from .loadtest.slo import parse
    from .verbs.loadtest import built_in_prompts, levels
    from .verbs.loadtest import loadtest as work

    config = LoadTest(
        prompts=built_in_prompts(),
        model=model,
        concurrencies=levels(concurrency),
        rate=rate,
        requests=requests,
        max_tokens=max_tokens,
        slos=tuple(parse(text) for text in slo or ()),
    )
    with progress(as_json) as told:
        report, kept = work(target, config, told)
    if not printed(as_json, report.to_json()):
        from .views.results import load_report

        load_report(console(), report.to_json(), str(kept) if kept else None)
    if not report.ok:
        raise typer.Exit(CheckFailedError.exit_code)


@app.command()
def doctor(as_json: opt.JsonOption = False) -> None:
    """Say what this machine can and cannot do."""
    from .verbs.doctor import doctor as work

    found = work()
    if not printed(as_json, found):
        from .views.results import diagnosis

        diagnosis(console(), found)


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option("--out", help="Where the bundle goes.")] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Save the summary as a picture as well.")
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Do all of it with the embedded checkpoint, without a GPU."""
    from .verbs.demo import demo as work

    with progress(as_json) as told:
        seen = work(out, told)
    if not printed(as_json, seen):
        from .views.demo import picture, summary

        summary(console(), seen)
        if svg:
            picture(svg, seen)


def main() -> None:
    """Run the command line and exit with the code of `errors`. One message, no traceback."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; gives its exit code.

    Threads of torch's OpenMP spin while they wait: on a machine that is busy otherwise, without a
    limit, that made calibration twenty times slower.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    debug = "--debug" in arguments or bool(os.environ.get("NEMO_DEPLOY_DEBUG"))
    return exit_code(lambda: app(arguments, prog_name="nemo-deploy"), debug)
