"""Options of load tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LevelsOption = Annotated[
    str,
    typer.Option(
        "--concurrency",
        metavar="N,N,...",
        help="Numbers of clients that send requests at the same time; one run per number.",
    ),
]
RateOption = Annotated[
    str | None,
    typer.Option(
        "--rate",
        metavar="R,R,...",
        help="Send R requests per second at random times, instead of --concurrency; one run per "
        "rate.",
    ),
]
ArrivalsOption = Annotated[
    str,
    typer.Option(
        "--arrivals",
        metavar="KIND",
        help="Times of --rate: poisson, constant, or gamma:SHAPE (below 1 is burstier).",
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help='Prompts to send, one a line, as text or {"prompt": TEXT}. Default: generated ones.',
    ),
]
PromptTokensOption = Annotated[
    str | None,
    typer.Option(
        "--prompt-tokens",
        metavar="N|MIN:MAX",
        help="Make prompts of exactly so many tokens, with the tokenizer of the bundle or "
        "--tokenizer.",
    ),
]
SharedPrefixOption = Annotated[
    float,
    typer.Option(
        "--shared-prefix",
        metavar="SHARE",
        help="Part of each prompt of --prompt-tokens that is the same for all, 0 to below 1.",
    ),
]
ReplayOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Send the requests of a trace at its times: JSON lines with timestamp (ms), "
        "input_length or prompt, output_length.",
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer", metavar="PATH", help="The model's tokenizer.json, or its directory."
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        min=0,
        help="Repeat the prompts and times of another test. Default: new ones each time.",
    ),
]
RequestsOption = Annotated[
    int | None,
    typer.Option(
        "--requests",
        metavar="N",
        min=1,
        help="Requests per run. Default: 4 per client, at least 16; with --rate, 30 seconds.",
    ),
]
MaxTokensOption = Annotated[
    int, typer.Option("--max-tokens", metavar="TOKENS", min=1, help="Longest output of a request.")
]
ProtocolOption = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="NAME",
        help="grpc or generate-stream (Triton), chat or completions (OpenAI), or auto: what the "
        "address says or the server answers to.",
    ),
]
ServedModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="Model to test. Default: the only one that is ready."
    ),
]
SloOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slo",
        metavar="OBJECTIVES",
        help="Objectives such as 'ttft_p99<500ms,itl_p95<40ms'; exit code 5 if missed. Failed "
        "requests count as infinitely slow. Repeatable.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", help="Give up a request after this time; it has failed."
    ),
]
MaxErrorsOption = Annotated[
    float,
    typer.Option(
        "--max-errors",
        metavar="PERCENT",
        help="Requests that may fail; exit code 5 if more do.",
    ),
]
FindMaxOption = Annotated[
    bool,
    typer.Option(
        "--find-max",
        help="Search the highest rate that meets --slo, instead of --concurrency; --rate is where "
        "it starts.",
    ),
]
AllowLateOption = Annotated[
    bool,
    typer.Option(
        "--allow-late",
        help="Accept figures that the client itself disturbed; otherwise exit code 5.",
    ),
]
IgnoreEosOption = Annotated[
    bool,
    typer.Option(
        "--ignore-eos", help="Make every output as long as --max-tokens, where the model can."
    ),
]
OwnServerOption = Annotated[
    bool,
    typer.Option(
        "--yes-this-is-mine", help="Test a server outside of this machine and private networks."
    ),
]
SamplesOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="Write every sample to FILE, one JSON object a line."
    ),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option(
        "--processes",
        metavar="N",
        min=1,
        help="Send from N processes. Default: as many as it takes, at most one per core.",
    ),
]
UntilOption = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="WIDTH",
        help="End a level when a confidence interval is narrow enough: 'ttft_p99<10%,300s' is "
        "below 10 % of the value, or after 300 s (default: 600). --requests is the limit.",
    ),
]
DefinitionsOption = Annotated[
    str | None,
    typer.Option(
        "--definitions",
        metavar="aiperf",
        help="Also report the metrics as AIPerf defines them, of the same samples.",
    ),
]
MetricsUrlOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics-url",
        metavar="URL",
        help="Sample the metrics at URL once a second: of the server, or a DCGM exporter. "
        "Repeatable. Default: Triton's port 8002 on the same host, if it answers.",
    ),
]
_SAVE = typer.Option(
    "--save",
    metavar="FILE",
    help="Write the report to FILE; its suffix says how: .html, .json, .csv (a row per level) or "
    ".prom (Prometheus). Repeatable.",
)
SaveOption = Annotated[list[Path] | None, _SAVE]
SavedOption = Annotated[list[Path], _SAVE]
InClusterOption = Annotated[
    bool,
    typer.Option(
        "--in-cluster",
        help="Test the servers of the bundle that is deployed, from pods beside them, instead of "
        "serving it here.",
    ),
]
PodsOption = Annotated[
    int | None,
    typer.Option(
        "--pods", metavar="N", min=1, help="Pods that send, with --in-cluster. Default: 1."
    ),
]
LoadImageOption = Annotated[
    str | None,
    typer.Option(
        "--image",
        metavar="IMAGE",
        help="Image of these pods: nemo-deploy's own. Default: the one in the registry that the "
        "bundle was built for.",
    ),
]
ReadyOption = Annotated[
    float | None,
    typer.Option(
        "--ready-timeout",
        metavar="SECONDS",
        min=1,
        help="How long the servers, and then these pods, may take to be ready. Default: 1800.",
    ),
]
ReportArgument = Annotated[Path, typer.Argument(help="A report of loadtest --json.")]
