"""The command line: parse, call one verb, render. Verbs are imported when they are called, so that
`--help` stays instant."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from .errors import (
    BadInputError,
    CheckFailedError,
    NemoDeployError,
    RefusedError,
    UsageError,
)
from .models import DEFAULT_CHECKPOINT
from .options import (
    BundleArgument,
    CalibrationOption,
    CheckpointOption,
    ConcurrencyOption,
    ContextOption,
    DeviceOption,
    ExecutorOption,
    GpuOption,
    GpusOption,
    HeldoutOption,
    JsonOption,
    LowDiskOption,
    QuantOption,
    SmoothOption,
)
from .spec import Workload
from .terminal import console, printed, progress, show_fetch

app = typer.Typer(
    name="nemo-deploy",
    help="From a Nemotron 3 checkpoint to a quantized, verified, load-tested deployment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """The options before a command. `run` reads `--debug`, which must work from the first line."""


@app.command()
def inspect(checkpoint: CheckpointOption = DEFAULT_CHECKPOINT, as_json: JsonOption = False) -> None:
    """Say what a model is and what it weighs."""
    from .verbs.inspect import inspect as work

    found = work(checkpoint)
    if not printed(as_json, found):
        from .views.model import inspection

        inspection(console(), found)


@app.command()
def plan(
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="For example h100, a100, a100-40gb, l40s.")
    ] = None,
    quant: Annotated[
        str | None,
        typer.Option("--quant", help="bf16, fp8, int4 or nvfp4; without it one is recommended."),
    ] = None,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    gpus: GpusOption = 1,
    context: ContextOption = None,
    concurrency: ConcurrencyOption = None,
    isl: Annotated[int, typer.Option(min=1, help="Input tokens of a request.")] = 1024,
    osl: Annotated[int, typer.Option(min=1, help="Output tokens of a request.")] = 256,
    matrix: Annotated[bool, typer.Option("--matrix", help="All GPUs and formats.")] = False,
    optimize: Annotated[str, typer.Option(help="latency, throughput or cost.")] = "cost",
    price: Annotated[
        float | None, typer.Option(min=0.0, help="USD of a GPU hour, instead of a list price.")
    ] = None,
    max_tpot: Annotated[
        float, typer.Option(min=0.001, help="Milliseconds that a token may take at most.")
    ] = 50.0,
    calibrate_from: Annotated[
        Path | None, typer.Option(help="A load test of your own (loadtest --json) to scale to.")
    ] = None,
    trtllm: Annotated[
        str | None, typer.Option("--trtllm", help="A version of TensorRT-LLM, as 1.3.0rc24.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="A peer to compare with: qwen3-30b-a3b.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with charts.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what would be built, whether it fits, who can run it, how fast, and what it costs."""
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
    if calibrate_from is not None and (matrix or quant is None):
        raise UsageError("--calibrate-from holds for the --gpu and --quant that were load-tested")
    if against is not None and (matrix or quant is None):
        raise UsageError("--against compares one --gpu and --quant; give both")
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
    quant: Annotated[
        str | None, typer.Option("--quant", help="bf16, fp8, int4 or nvfp4.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A new directory for the result.")
    ] = None,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    layout: Annotated[
        str, typer.Option("--layout", help="modelopt, or compressed-tensors (INT4 for vLLM).")
    ] = "modelopt",
    group_size: Annotated[
        int | None, typer.Option("--group-size", help="INT4: 32, 64 (default) or 128.")
    ] = None,
    fp8_layers: Annotated[
        str | None,
        typer.Option("--fp8-layers", help="FP8: conservative (default), or aggressive: Mamba too."),
    ] = None,
    calibration: CalibrationOption = None,
    smooth: SmoothOption = None,
    heldout: HeldoutOption = None,
    device: DeviceOption = "auto",
    low_disk: LowDiskOption = False,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            help="Instead of --quant: what formats cost, as fp8,int4,int4-plain.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint in another format, shard by shard; an interrupted run goes on."""
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
    from .verbs.quantize import options_for
    from .verbs.quantize import quantize as work
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
    gpu: GpuOption,
    quant: QuantOption,
    checkpoint: CheckpointOption = DEFAULT_CHECKPOINT,
    out: Annotated[
        Path | None, typer.Option("--out", help="The bundle; default dist/<model>-<gpu>-<quant>.")
    ] = None,
    gpus: GpusOption = 1,
    context: ContextOption = None,
    concurrency: ConcurrencyOption = None,
    calibration: CalibrationOption = None,
    smooth: SmoothOption = None,
    heldout: HeldoutOption = None,
    device: DeviceOption = "auto",
    low_disk: LowDiskOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a bundle: quantized checkpoint, engine, Triton repository, Kubernetes manifests."""
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
def verify(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Check a bundle: every digest, the model repository, the engine and the manifests."""
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
    bundle: BundleArgument,
    executor: ExecutorOption = "auto",
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Where this node keeps what it compiles.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """On the node that will serve: compile, tune, and check the answers before traffic comes."""
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
    bundle: BundleArgument,
    executor: ExecutorOption = "auto",
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = 8002,
    as_json: JsonOption = False,
) -> None:
    """Serve a bundle on this machine with a real tritonserver, until interrupted."""
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
    target: Annotated[str, typer.Argument(metavar="TARGET", help="BUNDLE or grpc://host:port.")],
    concurrency: Annotated[
        str, typer.Option(help="Clients at once; several levels as 1,2,4,8.")
    ] = "1,4",
    rate: Annotated[
        float | None, typer.Option(help="Requests per second instead, at random times.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Requests of each level.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Output tokens asked for.")] = 32,
    model: Annotated[str | None, typer.Option(help="The Triton model to load.")] = None,
    slo: Annotated[
        list[str] | None, typer.Option(help="An objective, as 'ttft_p99<500ms'. Repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure latency and throughput of a server, or of a bundle served here for the test."""
    from .loadtest import LoadTest
    from .loadtest.slo import parse
    from .verbs.loadtest import built_in_prompts
    from .verbs.loadtest import loadtest as work

    config = LoadTest(
        prompts=built_in_prompts(),
        model=model,
        concurrencies=_integers(concurrency),
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
def doctor(as_json: JsonOption = False) -> None:
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
    as_json: JsonOption = False,
) -> None:
    """Do all of it with the embedded checkpoint, on this machine, without a GPU."""
    from .verbs.demo import demo as work

    with progress(as_json) as told:
        seen = work(out, told)
    if not printed(as_json, seen):
        from .views.demo import picture, summary

        summary(console(), seen)
        if svg:
            picture(svg, seen)


def _integers(text: str) -> tuple[int, ...]:
    """`1,2,4` as numbers. Raises `UsageError`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--concurrency {text!r}: give whole numbers, for example 1,2,4") from None


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
    try:
        app(arguments, prog_name="nemo-deploy")
    except SystemExit as end:  # Typer reports wrong usage itself and ends every command this way
        return end.code if isinstance(end.code, int) else 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"error: {_message(error)}\n")
        if isinstance(error, NemoDeployError):
            return error.exit_code
        return BadInputError.exit_code if isinstance(error, OSError) else 1
    return 0


def _message(error: Exception) -> str:
    """One message for any failure; what nobody foresaw is named as that."""
    if isinstance(error, NemoDeployError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"unexpected {type(error).__name__}: {error}; please report it with --debug's output"
