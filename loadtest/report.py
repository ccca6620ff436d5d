"""The results of a load test; `LoadTestReport.to_json` is what `loadtest --json` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ..core.result import Result, plain
from .aiperf import Figures
from .config import Level, Settings
from .documents import LoadTestDocument
from .observers.sampler import Observed
from .search import Found
from .slo import Slo
from .statistics import PERCENTILES, Summary
from .timeline import Timeline
from .until import Width
from .validity import Client


@dataclass(frozen=True, slots=True)
class Errors:
    """Failures of one kind: how many, and the seconds after the level's start at which the first
    and the last of them ended."""

    count: int
    first_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class ShortOutputs:
    """Successful requests whose output has fewer tokens than asked for, and their share."""

    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Run:
    """One level.

    Attributes:
        level: The load.
        requests: Requests that ended, the failed ones included.
        measured: Successful requests that were sent in the steady state; latencies are theirs.
        errors: Requests that failed, a timeout or an empty output included.
        retries: Requests sent a second time because the server turned them away before their first
            token (they are not errors unless the second failed too; the wait counts as latency).
        latencies: A summary in milliseconds for each of `metrics.METRICS`, and `loop_lag`: by how
            much timers of the client were late.
        judged: The summary that each objective on a latency is evaluated on: failed requests are
            infinitely slow.
        output_tokens: Tokens of successful requests.
        prompt_tokens: Tokens of their prompts, None where the server does not count them.
        token_counting: Who counted the output tokens: `server`, `tokenizer`, or `responses` (each
            non-empty response counted as one token); the least trustworthy where requests differ.
        short_outputs: Outputs with fewer tokens than asked for.
        duration_s: From the level's start to the end of its last request.
        steady_s: The window, in seconds after the level's start, in which all clients of a closed
            loop were busy; None where there is none: then everything is measured.
        output_tokens_per_s: Tokens of successful requests per second of the steady window, or of
            `duration_s` where there is none.
        requests_per_s: Successful requests per second of the same.
        offered_per_s: Requests that were due per second of an open loop; None for a closed one.
        goodput: Like `requests_per_s`, for requests that themselves meet every latency objective
            (their first token, the mean of their gaps, their total time); all where there is none.
        attainment: The share of requests that do, failed ones included.
        throughput: Tokens that arrived in each second.
        timeline: The level over time.
        distributions_ms: For each of `metrics.DISTRIBUTIONS`, what 0, 1, 2 ... 100 % of the values
            do not exceed, of the same requests as `latencies`.
        error_kinds: Failures by kind.
        error_messages: What failed, and how often.
        complete: False where the server died or the test was interrupted during this level.
        client: Whether the client disturbed the figures.
        observed: What the server and GPUs said of themselves; None where nothing was asked.
        until: How narrow the interval became that was to end the level.
        aiperf: The metrics as AIPerf defines them, where they were asked for.
    """

    level: Level
    requests: int
    measured: int
    errors: int
    retries: int
    latencies: Mapping[str, Summary]
    judged: Mapping[Slo, Summary]
    output_tokens: int
    prompt_tokens: int | None
    token_counting: str | None
    short_outputs: ShortOutputs
    duration_s: float
    steady_s: tuple[float, float] | None
    output_tokens_per_s: float
    requests_per_s: float
    offered_per_s: float | None
    goodput: float
    attainment: float | None
    throughput: tuple[int, ...]
    timeline: Timeline
    distributions_ms: Mapping[str, tuple[float, ...]]
    error_kinds: Mapping[str, Errors]
    error_messages: Mapping[str, int]
    complete: bool
    client: Client
    aiperf: Mapping[str, Figures] | None = None
    until: Width | None = None
    observed: Observed | None = None

    @property
    def error_percent(self) -> float:
        """Failed requests in percent."""
        return 100.0 * self.errors / self.requests if self.requests else 0.0

    def value(self, slo: Slo) -> float | None:
        """What `slo` is judged by, in the unit of its limit; infinite where failures decide."""
        if slo.metric == "errors":
            return self.error_percent if self.requests else None
        if slo.statistic is not None:
            return self.judged[slo].at(slo.statistic)
        rate: float = getattr(self, slo.metric)
        return rate

    def meets(self, slos: tuple[Slo, ...]) -> bool:
        """Whether the level was run to its end and every objective holds."""
        return self.complete and all(slo.holds(self.value(slo)) for slo in slos)

    def judgement(self, slo: Slo) -> dict[str, Any]:
        """How `slo` was judged, as JSON: an infinite value is null."""
        value = self.value(slo)
        result = {
            "objective": str(slo),
            "value": value if value is not None and math.isfinite(value) else None,
            "met": slo.holds(value),
        }
        if slo.statistic is None:
            return result
        judged = self.judged[slo]
        return result | {
            "survivors": self.latencies[slo.metric].at(slo.statistic),
            "carried": slo.statistic not in PERCENTILES or judged.carries(slo.statistic),
        }

    def to_json(self) -> dict[str, Any]:
        """This run as an element of `runs`."""
        load = {"concurrency": self.level.concurrency, "rate": self.level.rate}
        return {
            **{name: value for name, value in load.items() if value is not None},
            "requests": self.requests,
            "measured": self.measured,
            "errors": self.errors,
            "retries": self.retries,
            **{f"{name}_ms": summary.to_json() for name, summary in self.latencies.items()},
            "output_tokens": self.output_tokens,
            "prompt_tokens": self.prompt_tokens,
            "token_counting": self.token_counting,
            "short_outputs": asdict(self.short_outputs),
            "duration_s": self.duration_s,
            "steady_s": list(self.steady_s) if self.steady_s else None,
            "output_tokens_per_s": self.output_tokens_per_s,
            "requests_per_s": self.requests_per_s,
            "offered_per_s": self.offered_per_s,
            "goodput": self.goodput,
            "attainment": self.attainment,
            "throughput": list(self.throughput),
            "timeline": plain(self.timeline),
            "distributions_ms": plain(self.distributions_ms),
            "error_kinds": {name: asdict(errors) for name, errors in self.error_kinds.items()},
            "error_messages": dict(self.error_messages),
            "aiperf": plain(self.aiperf),
            "until": plain(self.until),
            "observed": plain(self.observed),
            "complete": self.complete,
            "valid": self.client.valid,
            "invalid_because": list(self.client.reasons),
            "client": {
                "cpu_cores": self.client.cpu,
                "machine_busy": self.client.machine,
                "load_average": self.client.load,
                "processes": self.client.processes,
                "starts_within_ms": self.client.starts_within_ms,
                "scaling": self.client.scaling,
            },
        }


@dataclass(frozen=True, slots=True)
class LoadTestReport(Result):
    """A whole load test.

    Attributes:
        token_counting: Who counted the output tokens, as in each of `runs`; the least trustworthy.
        seed: What seeded arrivals and generated prompts.
        started_at: When the test began, in UTC, as ISO 8601.
        settings: What was asked for, beyond the levels themselves.
        aborted: Why the test ended early (the server died, or it was interrupted); then the last
            run is incomplete.
        interrupted: Whether it was interrupted.
        search: What a search for the highest rate found; each of its steps is one of `runs`.
    """

    SCHEMA: ClassVar[int] = 3
    DOCUMENT: ClassVar[type | None] = LoadTestDocument

    model: str
    url: str
    max_tokens: int
    token_counting: str | None
    duration_s: float
    seed: int
    started_at: str
    settings: Settings
    runs: tuple[Run, ...]
    slos: tuple[Slo, ...] = ()
    max_errors: float = 1.0
    allow_late: bool = False
    aborted: str | None = None
    interrupted: bool = False
    search: Found | None = None

    @property
    def best(self) -> Run | None:
        """The run with the highest load that meets every objective without too many errors; None
        without objectives. A search says which load that is."""
        good = [
            run
            for run in self.runs
            if self.slos
            and run.meets(self.slos)
            and run.error_percent <= self.max_errors
            and (self.search is None or run.level.load == self.search.best)
        ]
        return max(good, key=lambda run: run.level.load, default=None)

    @property
    def met(self) -> bool | None:
        """Whether some level meets every objective; None where none was given."""
        return self.best is not None if self.slos else None

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the exit code of a command should be 5, in words."""
        problems = [self.aborted] if self.aborted else []
        if self.met is False:
            problems.append(f"no load meets {', '.join(map(str, self.slos))}")
        for run in self.final:
            if run.error_percent > self.max_errors:
                problems.append(
                    f"{run.level}: {run.error_percent:.1f} % of the requests failed, more than "
                    f"--max-errors {self.max_errors:g}"
                )
            if not run.client.valid and not self.allow_late:
                problems += [f"{run.level}: {reason}" for reason in run.client.reasons]
        return tuple(problems)

    @property
    def final(self) -> tuple[Run, ...]:
        """The runs that the report rests on: of a search, the best one."""
        if self.search is None:
            return self.runs
        return (self.best,) if self.best else ()

    @property
    def ok(self) -> bool:
        """False where a command should exit with 5: see `problems`."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The document, of JSON types only. `slo.best` is a concurrency or a rate, or null."""
        best = self.best
        return self.stamped(
            {
                "model": self.model,
                "url": self.url,
                "max_tokens": self.max_tokens,
                "token_counting": self.token_counting,
                "duration_s": self.duration_s,
                "seed": self.seed,
                "started_at": self.started_at,
                "settings": plain(self.settings),
                "aborted": self.aborted,
                "interrupted": self.interrupted,
                "max_errors": self.max_errors,
                "problems": list(self.problems),
                "runs": [run.to_json() for run in self.runs],
                "slo": {
                    "objectives": [str(slo) for slo in self.slos],
                    "met": self.met,
                    "best": best.level.load if best else None,
                    "search": plain(self.search),
                    "levels": [
                        {
                            "load": run.level.load,
                            "results": [run.judgement(slo) for slo in self.slos],
                        }
                        for run in self.runs
                    ],
                },
            }
        )
