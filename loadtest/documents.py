"""The types of a report's JSON document, from which its schema is made."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from .config import Settings
from .observers.sampler import Observed
from .search import Found
from .timeline import Timeline
from .until import Width

SummaryDocument = TypedDict(
    "SummaryDocument",
    {
        "p50": float | None,
        "p75": float | None,
        "p90": float | None,
        "p95": float | None,
        "p99": float | None,
        "p99.9": float | None,
        "mean": float | None,
        "min": float | None,
        "max": float | None,
        "samples": int,
        "intervals": dict[str, list[float] | None],
    },
)


class ErrorsDocument(TypedDict):
    """Failures of one kind: how many, and when the first and the last ended."""

    count: int
    first_s: float
    last_s: float


class ShortOutputsDocument(TypedDict):
    """Outputs with fewer tokens than asked for, and their share."""

    count: int
    share: float


class ClientDocument(TypedDict):
    """What the client and the machine did during a level."""

    cpu_cores: float | None
    machine_busy: float | None
    load_average: float | None
    processes: NotRequired[int]
    starts_within_ms: NotRequired[float]
    scaling: NotRequired[str | None]


class RunDocument(TypedDict):
    """One level of the document: either `concurrency` or `rate`, and what was measured."""

    concurrency: NotRequired[int]
    rate: NotRequired[float]
    requests: int
    measured: int
    errors: int
    retries: int
    ttft_ms: SummaryDocument
    content_ms: SummaryDocument
    itl_ms: SummaryDocument
    tpot_ms: SummaryDocument
    e2e_ms: SummaryDocument
    stream_ms: SummaryDocument
    ttft_from_send_ms: SummaryDocument
    e2e_from_send_ms: SummaryDocument
    queue_ms: SummaryDocument
    lateness_ms: SummaryDocument
    client_wait_ms: SummaryDocument
    loop_lag_ms: SummaryDocument
    output_tokens: int
    prompt_tokens: int | None
    token_counting: str | None
    short_outputs: ShortOutputsDocument
    duration_s: float
    steady_s: list[float] | None
    output_tokens_per_s: float
    requests_per_s: float
    offered_per_s: float | None
    goodput: float
    attainment: float | None
    throughput: list[int]
    timeline: Timeline | None
    distributions_ms: dict[str, list[float]]
    aiperf: dict[str, dict[str, float]] | None
    until: Width | None
    observed: Observed | None
    error_kinds: dict[str, ErrorsDocument]
    error_messages: dict[str, int]
    complete: bool
    valid: bool
    invalid_because: list[str]
    client: ClientDocument


class ObjectiveDocument(TypedDict):
    """How one level was judged by an objective. `value` counts failed requests as infinitely slow
    (null where they decide), `survivors` leaves them out; `carried` says whether there are enough
    requests for the percentile."""

    objective: str
    value: float | None
    met: bool
    survivors: NotRequired[float | None]
    carried: NotRequired[bool]


class JudgedLevelDocument(TypedDict):
    """One load, and how it was judged."""

    load: float
    results: list[ObjectiveDocument]


class SloDocument(TypedDict):
    """The objectives, whether one level meets all of them (null without objectives), and the
    highest concurrency or rate that does. `search` says how a search found it."""

    objectives: list[str]
    met: bool | None
    best: float | None
    search: Found | None
    levels: list[JudgedLevelDocument]


class LoadTestDocument(TypedDict):
    """The whole document; its attributes are those of `LoadTestReport`. Reports that were made
    before schema 3 have neither `started_at`, `settings`, `timeline` nor `distributions_ms`."""

    made_by: NotRequired[str]
    model: str
    url: str
    max_tokens: int
    token_counting: str | None
    duration_s: float
    seed: int | None
    started_at: str | None
    settings: Settings | None
    aborted: str | None
    interrupted: bool
    max_errors: float
    problems: list[str]
    runs: list[RunDocument]
    slo: SloDocument
