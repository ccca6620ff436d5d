"""The results of a load test; `LoadTestReport.to_json` is what `loadtest --json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, NotRequired, TypedDict

from ..core.errors import BadInputError
from ..core.migrations import Document, Migration, migrated
from ..core.result import Result
from ..runtime.untrusted import MAX_JSON_BYTES, parse_json
from .config import Level
from .slo import Slo


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds, linearly interpolated between the `samples` values; None where there are none.

    With fewer than 100 samples `p99` lies between the two largest: read it with `samples`.
    """

    p50: float | None
    p90: float | None
    p99: float | None
    samples: int

    def at(self, percentile: int) -> float | None:
        """The percentile 50, 90 or 99."""
        return {50: self.p50, 90: self.p90, 99: self.p99}[percentile]


class RunDocument(TypedDict):
    """One level of the document: either `concurrency` or `rate`, and what was measured."""

    concurrency: NotRequired[int]
    rate: NotRequired[float]
    requests: int
    errors: int
    retries: int
    ttft_ms: Percentiles
    itl_ms: Percentiles
    e2e_ms: Percentiles
    output_tokens: int
    duration_s: float
    output_tokens_per_s: float
    requests_per_s: float
    goodput: float
    error_messages: dict[str, int]
    complete: bool


class SloDocument(TypedDict):
    """The objectives, whether one level meets all of them (null without objectives), and the
    highest concurrency or rate that does."""

    objectives: list[str]
    met: bool | None
    best: float | None


class LoadTestDocument(TypedDict):
    """The whole document; its attributes are those of `LoadTestReport`."""

    model: str
    url: str
    max_tokens: int
    token_counting: str
    duration_s: float
    aborted: str | None
    runs: list[RunDocument]
    slo: SloDocument


@dataclass(frozen=True, slots=True)
class Run:
    """One level. Latencies and tokens are of successful requests only.

    Attributes:
        level: The load.
        requests: Requests that ended, the failed ones included.
        errors: Requests that failed, a timeout or an empty output included.
        retries: Requests sent a second time because the server turned them away before their first
            token (they are not errors unless the second failed too; the wait counts as latency).
        ttft: From the intended send to the first non-empty response.
        itl: Gaps between tokens: a response of n tokens gives n times the n-th part of its gap.
        e2e: From the intended send to the end of the stream, right after the final response.
        duration_s: From the level's start to the end of its last request.
        output_tokens_per_s: Tokens of successful requests per second of `duration_s`.
        requests_per_s: Successful requests per second of `duration_s`.
        goodput: Like `requests_per_s`, for requests that themselves meet every latency objective
            (their first token, the mean of their gaps, their total time); all where there is none.
        error_messages: What failed, and how often.
        complete: False where the server died during this level.
    """

    level: Level
    requests: int
    errors: int
    retries: int
    ttft: Percentiles
    itl: Percentiles
    e2e: Percentiles
    output_tokens: int
    duration_s: float
    output_tokens_per_s: float
    requests_per_s: float
    goodput: float
    error_messages: Mapping[str, int]
    complete: bool

    def value(self, slo: Slo) -> float | None:
        """What was measured for the metric of `slo`, in the unit of its limit."""
        if slo.metric == "errors":
            return 100.0 * self.errors / self.requests if self.requests else None
        if slo.percentile is not None:
            percentiles: Percentiles = getattr(self, slo.metric)
            return percentiles.at(slo.percentile)
        rate: float = getattr(self, slo.metric)
        return rate

    def meets(self, slos: tuple[Slo, ...]) -> bool:
        """Whether the level was run to its end and every objective holds."""
        return self.complete and all(slo.holds(self.value(slo)) for slo in slos)

    def to_json(self) -> dict[str, Any]:
        """This run as an element of `runs`."""
        load = {"concurrency": self.level.concurrency, "rate": self.level.rate}
        return {
            **{name: value for name, value in load.items() if value is not None},
            "requests": self.requests,
            "errors": self.errors,
            "retries": self.retries,
            "ttft_ms": asdict(self.ttft),
            "itl_ms": asdict(self.itl),
            "e2e_ms": asdict(self.e2e),
            "output_tokens": self.output_tokens,
            "duration_s": self.duration_s,
            "output_tokens_per_s": self.output_tokens_per_s,
            "requests_per_s": self.requests_per_s,
            "goodput": self.goodput,
            "error_messages": dict(self.error_messages),
            "complete": self.complete,
        }


@dataclass(frozen=True, slots=True)
class LoadTestReport(Result):
    """A whole load test.

    Attributes:
        token_counting: `tokenizer`, or `responses`: each non-empty response counted as one token.
        aborted: Why the test ended early (the server died); then the last run is incomplete.
    """

    SCHEMA: ClassVar[int] = 1
    DOCUMENT: ClassVar[type | None] = LoadTestDocument

    model: str
    url: str
    max_tokens: int
    token_counting: str
    duration_s: float
    runs: tuple[Run, ...]
    slos: tuple[Slo, ...] = ()
    aborted: str | None = None

    @property
    def best(self) -> Run | None:
        """The run with the highest load that meets every objective; None without objectives."""
        good = [run for run in self.runs if self.slos and run.meets(self.slos)]
        return max(good, key=lambda run: run.level.load, default=None)

    @property
    def met(self) -> bool | None:
        """Whether some level meets every objective; None where none was given."""
        return self.best is not None if self.slos else None

    @property
    def ok(self) -> bool:
        """False where a command should exit with 5: an objective missed, or the server died."""
        return self.aborted is None and self.met is not False

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
                "aborted": self.aborted,
                "runs": [run.to_json() for run in self.runs],
                "slo": {
                    "objectives": [str(slo) for slo in self.slos],
                    "met": self.met,
                    "best": best.level.load if best else None,
                },
            }
        )


MIGRATIONS: Final[tuple[Migration, ...]] = ()
"""Reports that do not say their schema have the first."""


def read_report(path: Path) -> Document:
    """The document of a load test that was saved to `path`, in the present schema.

    Raises `BadInputError` for a file that is no JSON object, or of a newer version, `OSError` for
    one that cannot be read.
    """
    unusable = f"{path}: cannot be used as a report of nemo-deploy loadtest --json"
    with path.open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise BadInputError(f"{unusable}: it is larger than {MAX_JSON_BYTES} bytes")
    try:
        document = parse_json(data)
    except ValueError as error:
        raise BadInputError(f"{unusable}: {error}") from error
    if not isinstance(document, dict):
        raise BadInputError(f"{unusable}: it contains no JSON object")
    return migrated(document, path, MIGRATIONS)
