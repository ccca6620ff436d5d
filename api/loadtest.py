"""`loadtest`: measures a running server, or a bundle that is served here for the test."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from .. import loadtest as load
from ..core.bundle import Bundle
from ..core.errors import UsageError
from ..core.files import locked
from ..core.progress import Advance, Progress, Silent
from ..core.result import Result
from ..loadtest.arrivals import Arrivals
from ..loadtest.documents import LoadTestDocument
from ..loadtest.live import LiveFigures
from ..loadtest.until import parse as parse_until
from ..model.catalog import text
from .loadtest_target import bundle_of, servers
from .loadtest_work import LoadedTokenizer, Source, requests_of

if TYPE_CHECKING:
    from .loadtest_in_cluster import InCluster

WARM_UP: Final = 1
"""Requests that each process sends first and that are not counted."""

BUILT_IN_PROMPTS: Final = 64


class _Document(LoadTestDocument):
    """A report, and where it was kept."""

    kept: str | None


@dataclass(frozen=True, slots=True)
class LoadTestResult(Result):
    """A report, and the file in the bundle that keeps it (None for a server that is no bundle of
    this machine)."""

    SCHEMA: ClassVar[int] = load.LoadTestReport.SCHEMA
    DOCUMENT: ClassVar[type | None] = _Document

    report: load.LoadTestReport
    kept: Path | None

    @property
    def ok(self) -> bool:
        """False when an objective was missed, too many requests failed, the client disturbed the
        figures, or the server died: see `report.problems`."""
        return self.report.ok

    def to_json(self) -> dict[str, Any]:
        """The report's document and `kept`."""
        return self.report.to_json() | {"kept": str(self.kept) if self.kept else None}


def built_in_prompts() -> tuple[str, ...]:
    """Generated prompts in the format that `tiny` was trained on; short and always the same."""
    return tuple(prompt.text for prompt in text.prompts(0, BUILT_IN_PROMPTS))


def loadtest(
    target: str | Path,
    *,
    concurrency: Sequence[int] = (1, 4),
    rate: float | Sequence[float] | None = None,
    arrivals: str = "poisson",
    requests: int | None = None,
    max_tokens: int = 32,
    prompts: Path | None = None,
    prompt_tokens: str | None = None,
    shared_prefix: float = 0.0,
    trace: Path | None = None,
    tokenizer: Path | None = None,
    seed: int | None = None,
    protocol: str = "auto",
    model: str | None = None,
    slos: Sequence[str] = (),
    find_max: bool = False,
    timeout: float = 120.0,
    max_errors: float = 1.0,
    allow_late: bool = False,
    ignore_eos: bool = False,
    yours: bool = False,
    processes: int | None = None,
    until: str | None = None,
    definitions: str | None = None,
    metrics_urls: Sequence[str] = (),
    out: Path | None = None,
    verify: str = "quick",
    trust_code: bool = False,
    in_cluster: InCluster | None = None,
    progress: Progress | None = None,
) -> LoadTestResult:
    """Send requests to a server and measure latency and throughput.

    A bundle is served on this machine for the test, or is in a cluster already. Its own tokenizer
    counts the tokens, and the report is kept in its `report/`.

    Args:
        target: A bundle's directory, `grpc://host:port` (Triton), or `http://host:port` (Triton or
            an OpenAI endpoint).
        concurrency: Numbers of clients, one level each.
        rate: Requests per second at random times instead, one level each.
        arrivals: How these times are distributed: `poisson`, `constant` or `gamma:SHAPE`.
        requests: Requests per level; by default a number that fits the level.
        max_tokens: Output tokens per request.
        prompts: A file of prompts, one a line, as text or as JSON objects with `prompt`.
        prompt_tokens: Exact lengths of prompts to make instead, `N` or `MIN:MAX` tokens.
        shared_prefix: The part of each made prompt that is the same for all, 0 to below 1.
        trace: A file of requests to send again at the same times.
        tokenizer: A tokenizer.json or its directory, for lengths of prompts and to count tokens
            where the server does not; by default that of a bundle.
        seed: Repeats the prompts and times of another test; random by default.
        protocol: `grpc`, `generate-stream`, `chat` or `completions`; `auto` finds out.
        model: The served model; by default the only one.
        slos: Objectives, for example `ttft_p99<500ms`; a text may hold several, with commas.
        find_max: Search the highest rate that meets the objectives, starting at `rate`.
        timeout: Seconds after which a request is given up.
        max_errors: Percent of the requests that may fail.
        allow_late: Whether the report is `ok` where the client disturbed the figures.
        ignore_eos: Whether every output is to be as long as asked for, where the model allows it.
        yours: Whether a server outside of private networks is one's own.
        processes: How many processes send the requests; by default as many as it takes.
        until: End each level when this interval is narrow enough, for example `ttft_p99<10%`.
        definitions: `aiperf` also gives its metrics, of the same samples.
        metrics_urls: Pages in Prometheus' format to sample once a second, of the server or of GPUs;
            by default Triton's, where it answers.
        out: A file for every sample, one JSON object a line.
        verify: What of a bundle is hashed before its code runs: `quick` or `full`.
        trust_code: Whether code may run that this version would not write.
        in_cluster: From where the servers of a bundle that is deployed are tested, instead of one
            that is started here.
        progress: Receives what is being done.

    Raises `UsageError` for a target or value that cannot be used, `BadInputError` for a server that
    does not answer, `CheckFailedError` for a bundle that is incomplete or does not start, or whose
    files or code are not as they should be. A missed objective, or a server that dies during the
    test, is not raised: see `ok`. An interrupt is raised as `InterruptedLoadTestError`, a
    `KeyboardInterrupt` with the result so far.
    """
    progress = progress or Silent()
    source = Source(prompts, prompt_tokens, trace, shared_prefix)
    rates = (rate,) if isinstance(rate, (int, float)) else tuple(rate or ())
    bundle = bundle_of(target, in_cluster, verify, trust_code, progress)
    loaded = _tokenizer(tokenizer, bundle)
    seed = secrets.randbelow(2**31) if seed is None else seed
    if in_cluster is not None:
        if processes is not None:
            raise UsageError(
                "--processes is for tests from this machine; --pods says how many send"
            )
        processes = in_cluster.pods
    warmup = processes or WARM_UP
    sent = requests_of(source, max_tokens=max_tokens, tokenizer=loaded, seed=seed, warmup=warmup)
    config = load.LoadTest(
        description=str(source),
        work=sent.work,
        schedule=sent.schedule,
        protocol=protocol,
        model=model or (bundle.model_name if bundle else None),
        concurrencies=tuple(concurrency),
        rates=rates,
        arrivals=Arrivals.parse(arrivals),
        requests=requests,
        warmup=warmup,
        max_tokens=max_tokens,
        slos=tuple(slo for text in slos for slo in load.slo.parse_all(text)),
        find_max=find_max,
        timeout_s=timeout,
        max_errors=max_errors,
        allow_late=allow_late,
        ignore_eos=ignore_eos,
        yours=yours or in_cluster is not None,  # a Service's address need not be private
        count_tokens=loaded.count if loaded else None,
        seed=seed,
        processes=processes,
        until=parse_until(until) if until else None,
        definitions=definitions,
        metrics_urls=tuple(metrics_urls),
    )
    with _interrupts(), servers(target, bundle, protocol, in_cluster, progress) as place:
        report = load.run(
            place.url,
            replace(config, metrics_port=place.metrics_port),
            on_progress=show_levels(progress),
            out=out,
            workers=place.workers,
        )
    return LoadTestResult(report, keep(bundle, report) if bundle else None)


def _tokenizer(path: Path | None, bundle: Bundle | None) -> LoadedTokenizer | None:
    """That of `path`, else the bundle's, where it has one."""
    if path is not None:
        return LoadedTokenizer(path)
    if bundle is None or not (bundle.checkpoint / "tokenizer.json").is_file():
        return None
    return LoadedTokenizer(bundle.checkpoint)


class InterruptedLoadTestError(KeyboardInterrupt):
    """A load test was interrupted; its cause is the interrupt, `result` what was measured."""

    def __init__(self, result: LoadTestResult) -> None:
        super().__init__()
        self.result = result


@contextmanager
def _interrupts() -> Iterator[None]:
    from ..loadtest.running import InterruptedTestError

    try:
        yield
    except InterruptedTestError as interrupt:
        cause = interrupt.__cause__
        raise InterruptedLoadTestError(LoadTestResult(interrupt.report, None)) from cause


def keep(bundle: Bundle, report: load.LoadTestReport) -> Path:
    """Write `report` into the bundle and record it there."""
    name = f"loadtest-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.json"
    text = json.dumps(report.to_json(), indent=2) + "\n"
    with locked(bundle.path):
        return Bundle.open(bundle.path).add_report(name, text.encode())


def show_levels(progress: Progress) -> Callable[[load.Progress], None]:
    """Shows a load test's progress as one step for each level, with its figures so far."""
    shown: dict[int, tuple[Advance, LiveFigures]] = {}

    def show(state: load.Progress) -> None:
        if state.index not in shown:
            advance = progress.step(str(state.level), state.level.requests, "requests")
            shown[state.index] = advance, LiveFigures()
        advance, figures = shown[state.index]
        advance(state.done, figures.text(state))

    return show


def levels(text: str) -> tuple[int, ...]:
    """The numbers of clients in a text such as `1,2,4`. Raises `UsageError`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--concurrency {text!r}: must be whole numbers, for example 1,2,4"
        ) from None


def rates(text: str) -> tuple[float, ...]:
    """The rates in a text such as `0.5,2`. Raises `UsageError`."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--rate {text!r}: must be numbers, for example 0.5,2,8") from None
