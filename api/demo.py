"""`demo`: runs every step with the embedded checkpoint on this machine."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from .. import loadtest as load
from ..core.bundle import Bundle
from ..core.checks import Check
from ..core.errors import CheckFailedError
from ..core.progress import Progress, Silent
from ..core.result import Result
from ..model.catalog import DEFAULT_CHECKPOINT, TINY, text
from ..model.spec import Workload
from .ask import ask
from .build import make, prepare
from .build_result import BuildResult
from .inspect import inspect
from .loadtest import built_in_prompts, keep, show_levels
from .loadtest_work import LoadedTokenizer
from .serve import serving
from .verify import verify

GPU: Final = "h100"
QUANT: Final = "int4"
QUESTIONS: Final = 3
CONCURRENCIES: Final = (1, 4)


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """How the bundle can be served: the rule that decides, its status, the engine's backend."""

    rule: str
    status: str
    backend: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A question, the right answer, and what the server answered."""

    prompt: str
    expected: str
    answer: str


@dataclass(frozen=True, slots=True)
class DemoResult(Result):
    """Everything that a demonstration showed.

    Attributes:
        inspect: The document of `inspect`.
        training: How the embedded checkpoint was trained.
        plan: How the bundle can be served.
        build: What was built.
        checks: The checks of the bundle, all of which passed.
        ready_s: Seconds until the server was ready.
        answers: Answers to questions that were not in its training.
        loadtest: The load test.
        report: The file that keeps its report.
        seconds: How long everything took.
        next: Commands that do the same with the real model.
    """

    SCHEMA: ClassVar[int] = 1

    inspect: dict[str, Any]
    training: dict[str, Any]
    plan: DemoPlan
    build: BuildResult
    checks: tuple[Check, ...]
    ready_s: float
    answers: tuple[Answer, ...]
    loadtest: load.LoadTestReport
    report: Path
    seconds: float
    next: tuple[str, ...]


def demo(out: Path | None = None, progress: Progress | None = None) -> DemoResult:
    """Inspect, plan, build, verify, serve, ask and load-test `tiny`.

    Raises `CheckFailedError` when the bundle does not verify or a load test fails.
    """
    progress = progress or Silent()
    started = time.perf_counter()
    facts = inspect("tiny").to_json()
    job = prepare("tiny", GPU, QUANT, Workload(context=4096), out)
    built = make(job, progress)
    verified = verify(job.out, progress=progress)
    if verified.failed:
        first = verified.failed[0]
        raise CheckFailedError(f"{job.out}: {first.name}: {first.detail}")
    bundle = Bundle.open(job.out)
    progress.step("start tritonserver")
    begun = time.perf_counter()
    with serving(bundle, executor="reference") as server:
        ready = time.perf_counter() - begun
        progress.step("ask")
        answers = tuple(
            Answer(
                question.text,
                question.answer,
                "".join(ask(server.grpc_url, bundle.model_name, question.text)),
            )
            for question in text.prompts(1, QUESTIONS, split="heldout")
        )
        report = _load(server.grpc_url, bundle, progress)
    kept = keep(bundle, report)
    if report.aborted:
        raise CheckFailedError(f"load test: {report.aborted}")
    return DemoResult(
        inspect=facts,
        training=json.loads((TINY / "training.json").read_text(encoding="utf-8")),
        plan=DemoPlan(job.plan.rule, job.plan.status, job.plan.engine.backend),
        build=built,
        checks=verified.checks,
        ready_s=ready,
        answers=answers,
        loadtest=report,
        report=kept,
        seconds=time.perf_counter() - started,
        next=next_commands(),
    )


def _load(url: str, bundle: Bundle, progress: Progress) -> load.LoadTestReport:
    config = load.LoadTest(
        prompts=built_in_prompts(),
        model=bundle.model_name,
        concurrencies=CONCURRENCIES,
        max_tokens=32,
        count_tokens=LoadedTokenizer(bundle.checkpoint).count,
    )
    return load.run(url, config, on_progress=show_levels(progress))


def next_commands() -> tuple[str, ...]:
    """The two commands to run for the real model."""
    return (
        f"hf download {DEFAULT_CHECKPOINT} --local-dir nano",
        f"nemo-deploy build --gpu {GPU} --quant {QUANT} --checkpoint nano",
    )
