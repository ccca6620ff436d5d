"""What passes between clients, text and tokens: requests, steps, and the interface of executors.

client → GenerationRequest → prompt (prompts.py) → TokenRequest → executor
client ← Step ← text stage (stage.py) ← TokenStep ← executor
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from .answers import Call
from .golden import Forced, Scores, Tokens
from .text import Detokenizer

if TYPE_CHECKING:
    from .chat import Conversation
    from .guides import Guide
    from .vocabulary import CheckpointVocabulary


class Failure(Enum):
    """Why a request ended without an answer."""

    INVALID = "invalid"
    UNAVAILABLE = "unavailable"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    INTERNAL = "internal"

    @property
    def triton_code(self) -> str:
        """The name of Triton's error code; it has none for a deadline."""
        return _TRITON_CODES[self]


_TRITON_CODES: Final = {
    Failure.INVALID: "INVALID_ARG",
    Failure.UNAVAILABLE: "UNAVAILABLE",
    Failure.CANCELLED: "CANCELLED",
    Failure.DEADLINE: "CANCELLED",
    Failure.INTERNAL: "INTERNAL",
}


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One validated request, whose prompt is a text, a conversation, or tokens.

    What is None was not given: `temperature`, `top_k` and `top_p` then follow the checkpoint's
    `generation_config.json`, `seed` is random, and `max_tokens` is what the context leaves.
    `logprobs` is how many likely tokens are reported at each position besides the chosen one.
    `thinking_budget` limits the tokens of the reasoning.
    """

    prompt: str = ""
    max_tokens: int | None = 32
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    streaming: bool = False
    echo_prompt: bool = False
    return_perf_metrics: bool = False
    return_finish_reason: bool = False
    return_stop_reason: bool = False
    return_cumulative_logprob: bool = False
    conversation: Conversation | None = None
    input_ids: Tokens | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    thinking_budget: int | None = None
    guide: Guide | None = None

    @property
    def greedy(self) -> bool:
        """Whether each token is the most likely one: no sampling was requested, or `top_k` is 1."""
        if self.temperature == 0 or self.top_k == 1:
            return True
        return self.temperature is None and not self.top_k and self.top_p is None


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What an executor generates for.

    `prompt` is not empty, and with `max_tokens` it fits into the context. `end_tokens` end the
    answer; there are none where the request ignores them. `text` is the prompt of the request as
    text. `request` holds the sampling parameters, with the checkpoint's defaults and a seed.
    `resumed` says that `prompt` ends with a reasoning that was cut at its budget and closed.
    `guide` is what `Executor.compile_guide` made of the grammar that the tokens must follow, None
    where they are free.
    """

    prompt: Tokens
    max_tokens: int
    end_tokens: frozenset[int]
    text: str
    request: GenerationRequest
    resumed: bool = False
    guide: object | None = None


@dataclass(slots=True)  # made for every token: a frozen one takes four times as long
class TokenStep:
    """Tokens that were generated; usually one.

    `finish` is set on the last step only: `stop`, with the token that ended the answer as the last
    one, or `length`. `cumulative_logprob` is the sum so far of the natural logarithms of the chosen
    tokens' probabilities, None where not computed. `logprobs` has those of the likeliest tokens and
    of the chosen one, for each of `tokens`, where the request wants them. `metrics` holds outputs
    of `contract.OUTPUTS` that the executor measured itself; times in ns.
    """

    tokens: Tokens
    finish: str | None = None
    cumulative_logprob: float | None = None
    logprobs: Sequence[Mapping[int, float]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of a token of the answer, and those of the likeliest ones, by text."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the prompt, of the answer, and those of the answer that are reasoning."""

    prompt: int
    answer: int
    reasoning: int


@dataclass(slots=True)  # made for every token, like a TokenStep
class Step:
    """What generated tokens add to the answer.

    All may be empty: the end-of-sequence token has no text, and a character or a marker can span
    tokens. `finish` is set on the last step only: `stop`, `length` or `tool_calls`. `tokens` is how
    many tokens the step adds to the answer.
    """

    text: str = ""
    finish: str | None = None
    stop_reason: str = ""
    cumulative_logprob: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reasoning: str = ""
    calls: tuple[Call, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    usage: Usage | None = None
    tokens: int = 0


class TokenSink(Protocol):
    """Where an executor sends what it generates. Never raises; ignores steps after the end."""

    @property
    def done(self) -> bool:
        """True once the generation is complete or abandoned: stop generating."""

    def step(self, step: TokenStep) -> None:
        """Take tokens."""

    def fail(self, message: str, failure: Failure) -> None:
        """End the request without an answer."""


class Sink(Protocol):
    """Where the text stage sends an answer. Never raises; ignores steps after the end."""

    @property
    def done(self) -> bool:
        """True once the request was answered, failed or cancelled."""

    def step(self, step: Step) -> None:
        """Take a step."""

    def fail(self, message: str, failure: Failure) -> None:
        """End the request without an answer."""


@dataclass(frozen=True, slots=True)
class Load:
    """What an executor is occupied with: the sequences that it generates for, and the shares of its
    caches that are in use, 0 to 1 or None where it does not know."""

    running: int
    kv_cache: float | None = None
    mamba_state: float | None = None


class Vocabulary(Protocol):
    """The tokens that an executor generates."""

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""

    def detokenizer(self) -> Detokenizer:
        """A detokenizer for one answer."""

    def token_text(self, token: int) -> str:
        """One token as text, also a control token."""


class Executor(ABC):
    """Generates tokens for many requests at once."""

    has_weights: ClassVar[bool] = True
    """Whether its tokens come from the checkpoint's weights, so that `score` means something."""

    vocabulary: CheckpointVocabulary
    """The tokens of prompts."""

    context: int
    """Tokens of a prompt and its answer together, at most."""

    @property
    def can_guide(self) -> bool:
        """Whether it can make answers conform to a `Guide`."""
        return False

    def compile_guide(self, grammar: str) -> object:
        """What `TokenRequest.guide` holds for answers that follow `grammar` (see `guides`).

        Called in threads that prepare requests, as it may take a second. Raises `RequestError` that
        says in one line why the grammar cannot be used. Only for an executor that can guide.
        """
        raise NotImplementedError

    @abstractmethod
    def submit(self, request: TokenRequest, sink: TokenSink) -> None:
        """Queue a request and return at once. Steps go to `sink` from another thread."""

    @property
    def answers(self) -> Vocabulary:
        """The tokens of answers."""
        return self.vocabulary

    def tokens(self, text: str) -> Tokens:
        """The token numbers of a prompt, as requests are tokenized."""
        return self.vocabulary.encode(text)

    @abstractmethod
    def score(self, cases: Sequence[Forced]) -> list[Scores]:
        """For each case, at each forced token, the log-probabilities of the most likely tokens
        given all tokens before it. Call it before any request is submitted."""

    @property
    @abstractmethod
    def healthy(self) -> bool:
        """Whether a request submitted now would be served."""

    @property
    @abstractmethod
    def load(self) -> Load:
        """What it is occupied with now. May take a tenth of a second."""

    @abstractmethod
    def close(self, timeout: float) -> None:
        """Abandon all work and stop within `timeout` seconds."""
