"""Requests to an executor, its answers, and the interface of every executor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from .golden import Forced, Scores, Tokens


class RequestError(ValueError):
    """A request is invalid. The client gets the message; the model continues."""


class StartError(RuntimeError):
    """The model cannot start. Says what is wrong with bundle or machine, and what to do."""


class Failure(Enum):
    """Why a request ended without an answer; the values are names of Triton's error codes."""

    INVALID = "INVALID_ARG"
    UNAVAILABLE = "UNAVAILABLE"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One validated request. `temperature`, `top_k` and `top_p` are None where not given."""

    prompt: str
    max_tokens: int = 32
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    streaming: bool = False
    echo_prompt: bool = False
    return_perf_metrics: bool = False
    return_finish_reason: bool = False
    return_stop_reason: bool = False
    return_cumulative_logprob: bool = False

    @property
    def greedy(self) -> bool:
        """Whether each token is the most likely one: no sampling was requested, or `top_k` is 1."""
        if self.temperature == 0 or self.top_k == 1:
            return True
        return self.temperature is None and not self.top_k and self.top_p is None


@dataclass(frozen=True, slots=True)
class Step:
    """What one generated token adds to the answer.

    `text` may be empty: the end-of-sequence token has none, and a character can span tokens.
    `finish` is set on the last step only: `stop` or `length`. `cumulative_logprob` is the sum so
    far of the natural logarithms of the chosen tokens' probabilities, None where not computed.
    `metrics` holds outputs of `contract.OUTPUTS` that the executor measured itself; times in ns.
    """

    text: str
    finish: str | None = None
    stop_reason: str = ""
    cumulative_logprob: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Sink(Protocol):
    """Where an executor sends what it generates. Never raises; ignores steps after the end."""

    @property
    def done(self) -> bool:
        """True once the request was answered, failed or cancelled: stop generating."""

    def step(self, step: Step) -> None:
        """Take one token."""

    def fail(self, message: str, failure: Failure) -> None:
        """End the request without an answer."""


class Executor(ABC):
    """Generates tokens for many requests at once."""

    @abstractmethod
    def submit(self, request: GenerationRequest, sink: Sink) -> None:
        """Queue a request and return at once. Steps go to `sink` from another thread."""

    @abstractmethod
    def tokens(self, text: str) -> Tokens:
        """The token numbers of a prompt, as requests are tokenized."""

    @abstractmethod
    def score(self, cases: Sequence[Forced]) -> list[Scores]:
        """For each case, at each forced token, the log-probabilities of the most likely tokens
        given all tokens before it. Call it before any request is submitted."""

    @property
    @abstractmethod
    def healthy(self) -> bool:
        """Whether a request submitted now would be served."""

    @abstractmethod
    def close(self, timeout: float) -> None:
        """Abandon all work and stop within `timeout` seconds."""
