"""Options and arguments of the command line, in groups: what several commands share first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CheckpointOption = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        help="A directory, a config.json (to plan), a hub's owner/name[@revision], or `tiny`.",
    ),
]
GpuOption = Annotated[str, typer.Option("--gpu", help="For example h100, a100, a100-40gb, l40s.")]
QuantOption = Annotated[str, typer.Option("--quant", help="bf16, fp8, int4 or nvfp4.")]
GpusOption = Annotated[int, typer.Option("--gpus", min=1, help="GPUs of one server.")]
ContextOption = Annotated[
    int | None, typer.Option("--context", min=1, help="Tokens a sequence may have.")
]
ConcurrencyOption = Annotated[
    int | None, typer.Option("--concurrency", min=1, help="Sequences served at once.")
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option("--calibration", help="JSON lines with text, prompt or messages."),
]
SmoothOption = Annotated[
    bool | None,
    typer.Option(
        "--smooth/--no-smooth",
        help="INT4: fold activation-aware scales in, found by calibration (on by default).",
        show_default=False,
    ),
]
HeldoutOption = Annotated[
    Path | None,
    typer.Option("--heldout", help="Text to judge quality by, as --calibration. Runs the model."),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Where calibration runs: auto, cpu or cuda.")
]
BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle directory.")]
LowDiskOption = Annotated[
    bool,
    typer.Option(
        "--low-disk",
        help="Fetch and encode shard by shard, and let go of each. INT4, without smoothing.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ExecutorOption = Annotated[
    str, typer.Option("--executor", help="auto, trtllm, or reference (transformers on the CPU).")
]
AnyGpuOption = Annotated[
    str | None, typer.Option("--gpu", help="For example h100, a100, a100-40gb, l40s.")
]
AnyQuantOption = Annotated[
    str | None,
    typer.Option("--quant", help="bf16, fp8, int4 or nvfp4; without it one is recommended."),
]
IslOption = Annotated[int, typer.Option(min=1, help="Input tokens of a request.")]
OslOption = Annotated[int, typer.Option(min=1, help="Output tokens of a request.")]
MatrixOption = Annotated[bool, typer.Option("--matrix", help="All GPUs and formats.")]
OptimizeOption = Annotated[str, typer.Option(help="latency, throughput or cost.")]
PriceOption = Annotated[
    float | None, typer.Option(min=0.0, help="USD of a GPU hour, instead of a list price.")
]
MaxTpotOption = Annotated[
    float, typer.Option(min=0.001, help="Milliseconds that a token may take at most.")
]
CalibrateFromOption = Annotated[
    Path | None, typer.Option(help="A load test of your own (loadtest --json) to scale to.")
]
EngineOption = Annotated[str, typer.Option("--engine", help="What generates tokens: tensorrt-llm.")]
TrtllmOption = Annotated[
    str | None, typer.Option("--trtllm", help="A version of TensorRT-LLM, as 1.3.0rc24.")
]
AgainstOption = Annotated[
    str | None, typer.Option("--against", help="A peer to compare with: qwen3-30b-a3b.")
]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write a page with charts.")]
FormatOption = Annotated[
    str | None, typer.Option("--quant", help="bf16, fp8, int4 or nvfp4.", show_default=False)
]
NewDirectoryOption = Annotated[
    Path | None, typer.Option("--out", help="A new directory for the result.")
]
LayoutOption = Annotated[
    str, typer.Option("--layout", help="modelopt, or compressed-tensors (INT4 for vLLM).")
]
GroupSizeOption = Annotated[
    int | None, typer.Option("--group-size", help="INT4: 32, 64 (default) or 128.")
]
Fp8LayersOption = Annotated[
    str | None,
    typer.Option("--fp8-layers", help="FP8: conservative (default), or aggressive: Mamba too."),
]
CompareOption = Annotated[
    str | None,
    typer.Option(
        "--compare",
        help="Instead of --quant: what formats cost, as fp8,int4,int4-plain.",
    ),
]
TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help="BUNDLE or grpc://host:port.")
]
LevelsOption = Annotated[str, typer.Option(help="Clients at once; several levels as 1,2,4,8.")]
RateOption = Annotated[
    float | None, typer.Option(help="Requests per second instead, at random times.")
]
RequestsOption = Annotated[int | None, typer.Option(min=1, help="Requests of each level.")]
MaxTokensOption = Annotated[int, typer.Option(min=1, help="Output tokens asked for.")]
ServedModelOption = Annotated[str | None, typer.Option(help="The Triton model to load.")]
SloOption = Annotated[
    list[str] | None, typer.Option(help="An objective, as 'ttft_p99<500ms'. Repeatable.")
]
