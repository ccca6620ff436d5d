"""The configuration of a load test, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..core.errors import UsageError
from ..runtime import contract
from .aiperf import NAME as AIPERF
from .arrivals import POISSON, Arrivals
from .prompts import Work, repeated
from .sample import Sample
from .slo import Slo
from .until import MOST_REQUESTS, Until

_LEAST_REQUESTS: Final = 16
_ROUNDS: Final = 4
"""Requests per concurrent client when the number of requests is left open."""
_OPEN_LOOP_S: Final = 30.0
"""Length of an open-loop level when the number of requests is left open."""


@dataclass(frozen=True, slots=True)
class Level:
    """One load, held for `requests`: `concurrency` clients, or `rate` arrivals per second."""

    requests: int
    concurrency: int | None = None
    rate: float | None = None

    @property
    def load(self) -> float:
        """The concurrency or the rate, whichever is set."""
        return self.concurrency if self.concurrency is not None else self.rate or 0.0

    def __str__(self) -> str:
        return f"concurrency {self.concurrency}" if self.rate is None else f"{self.rate:g} req/s"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a test asked for, beyond its levels.

    Attributes:
        sent: What was sent, in words.
        protocol: One of `targets.factory.TARGETS`, or `auto`.
        arrivals: How the gaps between the requests of an open loop are distributed.
        warmup: Requests that were sent first and not counted.
        timeout_s: Seconds after which a request was given up.
        ignore_eos: Whether every output was to be as long as asked for.
    """

    sent: str
    protocol: str
    arrivals: str
    warmup: int
    timeout_s: float
    ignore_eos: bool


@dataclass(frozen=True, slots=True)
class LoadTest:
    """What to send, and how hard.

    Attributes:
        description: What is sent, in words.
        prompts: Sent in turn, over and over. No chat template is applied.
        work: Sent instead, in this order; must not end before the test does.
        protocol: `grpc`, `generate-stream`, `chat` or `completions`; `auto` takes what the address
            says or the server answers to.
        model: The served model; None takes the only one that is ready.
        concurrencies: One closed-loop level each: so many clients, each sending its next request
            when the last one has ended. They start one after the other, over the time that one
            request takes.
        rates: Open loop instead, one level each: requests per second, whether or not earlier
            ones have ended. Latencies then count from the moment a request was due.
        arrivals: How the gaps between them are distributed.
        schedule: One open-loop level whose requests are due at these seconds after its start.
        requests: Requests per level; None chooses: four for each client (at least 16), or thirty
            seconds of arrivals.
        warmup: Requests sent first and not counted.
        max_tokens: Output tokens requested per request (a model may stop earlier).
        ignore_eos: Whether the model is asked to generate all of them, where it can.
        timeout_s: A request that takes longer, its retry included, is an error.
        count_tokens: Tokens in a text, for servers that do not count them. None counts each
            non-empty response as one token there.
        slos: Objectives that every level is judged by.
        max_errors: Percent of the requests that may fail.
        find_max: Search the highest rate that meets all objectives, starting with the first of
            `rates` or with
            one request at a time. `requests` is the least number for each rate that is tried.
        allow_late: Whether a report may be used in which the client disturbed the figures.
        yours: Whether a server outside of private networks is the user's own.
        seed: Seeds the arrivals; the report says which one it was.
        until: Ends each level when its interval is narrow enough; `requests` is then the limit.
        definitions: Whose definitions the report also follows: `aiperf` or nobody's.
        metrics_urls: Pages of metrics to sample once a second; none takes Triton's, at
            `metrics_port` of the same host, where it answers.
        processes: How many processes send; None takes more than this one where a level shows that
            it takes them.

    Raises `UsageError` naming the value that is out of range.
    """

    description: str = "given prompts"
    prompts: Sequence[str] = ()
    work: Iterator[Work] | None = None
    protocol: str = "auto"
    model: str | None = None
    concurrencies: tuple[int, ...] = (1,)
    rates: tuple[float, ...] = ()
    arrivals: Arrivals = POISSON
    schedule: tuple[float, ...] = ()
    requests: int | None = None
    warmup: int = 1
    max_tokens: int = 128
    ignore_eos: bool = False
    timeout_s: float = 120.0
    count_tokens: Callable[[str], int] | None = None
    slos: tuple[Slo, ...] = ()
    max_errors: float = 1.0
    find_max: bool = False
    allow_late: bool = False
    yours: bool = False
    seed: int = 0
    until: Until | None = None
    definitions: str | None = None
    metrics_urls: tuple[str, ...] = ()
    metrics_port: int = contract.METRICS_PORT.number
    processes: int | None = None

    def __post_init__(self) -> None:
        if self.work is None and not (self.prompts and all(self.prompts)):
            raise UsageError("a load test needs at least one prompt, and none may be empty")
        if not self.concurrencies or min(self.concurrencies) < 1:
            raise UsageError("each concurrency must be at least 1, for example 1,2,4,8")
        for rate in self.rates:
            if not 0 < rate < math.inf:
                raise UsageError(f"the rate must be above 0 requests per second, got {rate:g}")
        if self.warmup < 0 or self.max_tokens < 1 or not 0 < self.timeout_s < math.inf:
            raise UsageError(
                "warm-up must be at least 0, the output tokens at least 1, the timeout above 0 s; "
                f"got {self.warmup}, {self.max_tokens} and {self.timeout_s:g}"
            )
        if not 0 <= self.max_errors <= 100:
            raise UsageError(
                f"--max-errors {self.max_errors:g}: must be a percentage from 0 to 100"
            )
        self._require_compatible()
        open_loop = self.rates or self.schedule or self.find_max
        least = 1 if open_loop else max(self.concurrencies)
        if self.requests is not None and self.requests < least:
            raise UsageError(
                f"{self.requests} requests per level cannot keep {least} clients busy: "
                f"use at least {least}, or a lower concurrency"
            )

    def _require_compatible(self) -> None:
        """Raise `UsageError` for values that exclude each other or need each other."""
        if self.definitions not in (None, AIPERF):
            raise UsageError(f"--definitions {self.definitions!r}: must be {AIPERF}")
        if self.until and (self.find_max or self.schedule):
            raise UsageError(
                "--until ends levels of --concurrency and --rate: leave it out with --find-max and "
                "--trace, which have ends of their own"
            )
        if self.find_max and not any(slo.is_latency for slo in self.slos):
            raise UsageError(
                "--find-max searches the highest rate that meets an objective on a latency: give "
                "one with --slo, for example --slo 'ttft_p99<500ms'"
            )
        if self.schedule and (self.rates or self.find_max or self.requests is not None):
            raise UsageError(
                "a trace says when its requests are sent: leave out --rate, --requests and "
                "--find-max"
            )

    def all_work(self) -> Iterator[Work]:
        """What to send, in order."""
        return self.work if self.work is not None else repeated(self.prompts, self.max_tokens)

    @property
    def settings(self) -> Settings:
        """What is asked for, for the report."""
        return Settings(
            self.description,
            self.protocol,
            "those of the trace" if self.schedule else str(self.arrivals),
            self.warmup,
            self.timeout_s,
            self.ignore_eos,
        )

    def levels(self) -> tuple[Level, ...]:
        """The levels in the order they are run."""
        limit = self.requests or (MOST_REQUESTS if self.until else None)
        if self.schedule:
            requests = len(self.schedule)
            return (Level(requests, rate=requests / max(self.schedule[-1], 1.0)),)
        if self.rates:
            return tuple(
                Level(limit or max(_LEAST_REQUESTS, math.ceil(rate * _OPEN_LOOP_S)), rate=rate)
                for rate in self.rates
            )
        return tuple(
            Level(limit or max(_LEAST_REQUESTS, _ROUNDS * clients), concurrency=clients)
            for clients in self.concurrencies
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a test is: `done` of the requests of `level`, the `index`-th (from 0) of `levels`.

    `samples` are the requests of the level that have ended; the list grows while the level is held,
    so a reader needs to read each of them only once. `in_flight` counts those that have not ended,
    in the event loop that reports progress, and takes a while.
    """

    level: Level
    index: int
    levels: int
    done: int
    errors: int
    samples: Sequence[Sample] = ()
    in_flight: Callable[[], int] = lambda: 0
