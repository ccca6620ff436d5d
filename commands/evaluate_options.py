"""Options of evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EvaluationTargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="OpenAI endpoint (http://HOST:PORT), or a bundle directory to serve on this machine.",
    ),
]
TasksOption = Annotated[
    str,
    typer.Option(
        "--tasks",
        metavar="NAME,NAME,...",
        help="Tasks, groups and tags of lm-eval, such as mmlu_pro,gsm8k; tiny_text comes with "
        "nemo-deploy.",
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        help="Ask only the first N questions of each task. Such scores are compared with nothing.",
    ),
]
FewshotOption = Annotated[
    int | None,
    typer.Option(
        "--num-fewshot",
        metavar="N",
        min=0,
        help="Answered examples before each question. Default: as published, else the task's.",
    ),
]
AnswerTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        metavar="TOKENS",
        min=1,
        help="Longest answer. Default: the task's; what the context leaves if the model reasons.",
    ),
]
EvaluationThinkingOption = Annotated[
    bool | None,
    typer.Option(
        "--thinking/--no-thinking",
        help="Let the model reason before it answers. Default: as published, else it does.",
    ),
]
RulerTokensOption = Annotated[
    str,
    typer.Option(
        "--ruler-tokens", metavar="N,N,...", help="Lengths of RULER's texts, such as 65536,262144."
    ),
]
AgainstOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--against",
        metavar="FILE",
        help="Compare with the JSON report of another evaluation, such as that of the source "
        "checkpoint. Repeatable.",
    ),
]
EvaluationProtocolOption = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="NAME",
        help="chat, completions (for base models), or auto: chat where the server takes it.",
    ),
]
ConcurrencyOption = Annotated[
    int,
    typer.Option("--concurrency", metavar="N", min=1, help="Requests at the same time."),
]
AnswerTimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=1, help="How long an answer may take.")
]
RunCodeOption = Annotated[
    bool,
    typer.Option(
        "--run-generated-code",
        help="Allow tasks that run the code that the model writes, such as humaneval, on this "
        "machine and with your rights.",
    ),
]
AnswersOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Write every question and answer to FILE, one JSON object a line.",
    ),
]
