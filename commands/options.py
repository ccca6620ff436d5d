"""Options and arguments of the command line; several commands share most of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

FORMATS: Final = "bf16, fp8, int8, int4 or nvfp4"
GPUS: Final = "for example h100, a100, a100-40gb or l40s"

# What: the model, the GPU, the format.
CheckpointOption = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        metavar="MODEL",
        help="Local directory, config.json (plan and inspect only), Hugging Face id "
        "owner/name[@revision] or address, or `tiny` (a small embedded model).",
    ),
]
GpuOption = Annotated[str, typer.Option("--gpu", metavar="GPU", help=f"GPU to build for, {GPUS}.")]
VerifyOption = Annotated[
    str,
    typer.Option(
        "--verify", metavar="HOW", help="Hash before a bundle's code runs: quick (code) or full."
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="What generates tokens: tensorrt-llm, vllm, or auto (the first that needs nothing "
        "unproven on the GPU).",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust-code", help="Run code in a bundle that this version would not write."),
]
AnyGpuOption = Annotated[
    str | None, typer.Option("--gpu", metavar="GPU", help=f"GPU to plan for, {GPUS}.")
]
BundleQuantOption = Annotated[
    str | None,
    typer.Option(
        "--quant",
        metavar="FORMAT",
        help=f"Weight format: {FORMATS}. Default: that of a quantized checkpoint.",
    ),
]
FormatOption = Annotated[
    str | None, typer.Option("--quant", metavar="FORMAT", help=f"Weight format: {FORMATS}.")
]
AnyQuantOption = Annotated[
    str | None,
    typer.Option(
        "--quant",
        metavar="FORMAT",
        help=f"Weight format: {FORMATS}. Default: recommended by plan.",
    ),
]
CompareOption = Annotated[
    str | None,
    typer.Option(
        "--compare",
        metavar="FORMATS",
        help="Measure the quality of several formats instead of writing one, for example "
        "fp8,int8,int4.",
    ),
]
BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Directory made by nemo-deploy build.")
]
ManifestsArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="Directory of manifests, also of other projects: YAML, Lists, kustomize trees.",
    ),
]
TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="Server to test: grpc://HOST:PORT (Triton) or http://HOST:PORT (Triton or OpenAI); or "
        "a bundle directory to serve on this machine.",
    ),
]

# The workload to plan for.
GpusOption = Annotated[
    int, typer.Option("--gpus", metavar="N", min=1, help="Number of GPUs that share the model.")
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="TOKENS",
        min=1,
        help="Longest sequence, prompt and output together. Default: chosen to fit.",
    ),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        metavar="N",
        min=1,
        help="Number of sequences served at the same time. Default: chosen to fit.",
    ),
]
IslOption = Annotated[
    int, typer.Option("--isl", metavar="TOKENS", min=1, help="Prompt length of a request.")
]
OslOption = Annotated[
    int, typer.Option("--osl", metavar="TOKENS", min=1, help="Output length of a request.")
]

# How the server is configured; the plan chooses what is not given.
MaxNumTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-num-tokens",
        metavar="TOKENS",
        min=1,
        help="Tokens of one step of the server. Default: 8192, fewer where memory is short.",
    ),
]
MambaStateOption = Annotated[
    str | None,
    typer.Option(
        "--mamba-state",
        metavar="DTYPE",
        help="Mamba state: float32, bfloat16 or float16. Default: float32, bfloat16 where memory "
        "is short.",
    ),
]
KvCacheOption = Annotated[
    str | None,
    typer.Option(
        "--kv-cache",
        metavar="DTYPE",
        help="KV cache: bf16 or fp8. Default: as the format, fp8 where memory is short.",
    ),
]

# How to plan.
MatrixOption = Annotated[bool, typer.Option("--matrix", help="Compare all GPUs and formats.")]
OptimizeOption = Annotated[
    str,
    typer.Option(
        "--optimize",
        metavar="GOAL",
        help="Goal of the recommendation: cost, latency or throughput.",
    ),
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        "--price", metavar="USD", min=0.0, help="Price of one GPU hour. Default: the list price."
    ),
]
MaxTpotOption = Annotated[
    float,
    typer.Option(
        "--max-tpot",
        metavar="MS",
        min=0.001,
        help="Longest acceptable time per output token, in milliseconds.",
    ),
]
CalibrateFromOption = Annotated[
    Path | None,
    typer.Option(
        "--calibrate-from",
        metavar="FILE",
        help="Scale the estimates to your own measurement, written by loadtest --json.",
    ),
]
TrtllmOption = Annotated[
    str | None,
    typer.Option(
        "--trtllm", metavar="VERSION", help="TensorRT-LLM version, for example 1.3.0rc24."
    ),
]
VllmOption = Annotated[
    str | None,
    typer.Option("--vllm", metavar="VERSION", help="vLLM version, for example 0.24.0."),
]
AgainstOption = Annotated[
    str | None,
    typer.Option(
        "--against", metavar="MODEL", help="Model to compare with, for example qwen3-30b-a3b."
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Also write a page with charts to FILE."),
]

# How to quantize.
LayoutOption = Annotated[
    str,
    typer.Option(
        "--layout",
        metavar="LAYOUT",
        help="File layout: modelopt, or compressed-tensors (INT4 and INT8 for vLLM).",
    ),
]
GroupSizeOption = Annotated[
    int | None,
    typer.Option(
        "--group-size",
        metavar="N",
        help="INT4, INT8: number of weights that share a scale, 32, 64 or 128; INT8 also 0, whole "
        "rows. Default: 64.",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "--fp8-layers",
        metavar="NAME|FILE",
        help="Which layers are quantized: published, conservative, aggressive, or a YAML file. "
        "Default: published where one was, else conservative.",
    ),
]
SmoothOption = Annotated[
    bool | None,
    typer.Option(
        "--smooth/--no-smooth",
        help="INT4: reduce rounding errors with scales found by calibration. Default: on.",
        show_default=False,
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        metavar="FILE",
        help="Calibration text: JSON Lines with text, prompt or messages. Default: built-in text.",
    ),
]
HeldoutOption = Annotated[
    Path | None,
    typer.Option(
        "--heldout",
        metavar="FILE",
        help="Run the quantized model and its source on this text and compare them. Format as "
        "for --calibration.",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option("--device", metavar="DEVICE", help="Device for calibration: auto, cpu or cuda."),
]
RequireGoldenOption = Annotated[
    bool,
    typer.Option(
        "--require-golden",
        help="Fail unless golden outputs can be recorded, and let no server get ready unchecked.",
    ),
]
LowDiskOption = Annotated[
    bool,
    typer.Option(
        "--low-disk",
        help="Download shard by shard and delete each after use. Not with FP8 or smoothing.",
    ),
]

# How to serve and to test.
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="EXECUTOR",
        help="What generates tokens: auto, trtllm, vllm, or reference (transformers on the CPU).",
    ),
]
ServingExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="EXECUTOR",
        help="What generates tokens: auto, trtllm, vllm, reference (transformers on the CPU), or "
        "scripted (answers from --script).",
    ),
]
TraceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trace-config",
        metavar="SETTING",
        help="A setting of Triton's tracing, as `tritonserver` takes it: level=TIMESTAMPS, "
        "mode=opentelemetry, opentelemetry,url=URL, … Repeatable.",
    ),
]
ScriptOption = Annotated[
    Path | None,
    typer.Option(
        "--script",
        metavar="FILE",
        help='Answers for the executor scripted: one JSON object a line, {"when": TEXT, "pieces": '
        '[TEXT, …], "pace_ms": N}. The first whose `when` occurs in the prompt is played.',
    ),
]
OpenAIPortOption = Annotated[
    int | None,
    typer.Option(
        "--openai-port",
        metavar="PORT",
        min=1,
        max=65535,
        help="Also offer OpenAI's API over HTTP, at /v1 of this port (9000 by custom).",
    ),
]
ApiKeysOption = Annotated[
    Path | None,
    typer.Option(
        "--api-keys",
        metavar="FILE",
        help="API keys for --openai-port, one a line; the file is read again when it changes. With "
        "keys it listens on all addresses, without on this machine only.",
    ),
]
OpenAITracesOption = Annotated[
    bool,
    typer.Option(
        "--openai-traces",
        help="Send an OpenTelemetry span of every request to --openai-port, as OpenTelemetry's "
        "environment variables say: OTEL_EXPORTER_OTLP_ENDPOINT names the collector.",
    ),
]
GraceOption = Annotated[
    int,
    typer.Option(
        "--grace",
        metavar="SECONDS",
        min=0,
        help="How long live requests may go on after SIGTERM or Ctrl-C, while new ones are "
        "refused. A second signal ends the server at once.",
    ),
]
ChatTargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="OpenAI endpoint (http://HOST:PORT), Triton server (grpc://HOST:PORT), or a bundle "
        "directory to serve on this machine.",
    ),
]
SystemOption = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="What the system message says.")
]
ThinkingOption = Annotated[
    bool,
    typer.Option("--thinking/--no-thinking", help="Let the model reason before it answers."),
]
ChatMaxTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        metavar="TOKENS",
        min=1,
        help="Longest answer, with its reasoning. Default: what the context leaves.",
    ),
]
ToolsOption = Annotated[
    Path | None,
    typer.Option(
        "--tools",
        metavar="FILE",
        help="JSON list of tools in OpenAI's form that the model may call. Calls are shown, and "
        "nothing runs them.",
    ),
]
ChatModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Model to chat with. Default: the only one."),
]
# Output.
NewDirectoryOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Directory to write; must be new or empty."),
]
BundleOutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Bundle directory. Default: dist/<model>-<gpu>-<quant>."
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output.")
]
