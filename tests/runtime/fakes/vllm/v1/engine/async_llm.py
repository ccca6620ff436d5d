"""FAKE: vllm/v1/engine/async_llm.py, vllm/outputs.py, vllm/v1/engine/output_processor.py."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

from ...sampling_params import RequestOutputKind
from .exceptions import EngineDeadError, EngineGenerateError

BOOM = 13
"""A prompt of this token alone fails in the engine."""

WAITS = 14
"""A prompt of this token alone gets no place in a batch."""


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: Any = None


@dataclass
class Request:
    """What was asked for, and what happened to it."""

    prompt: list[int]
    params: Any
    was_aborted: bool = False
    tokens: list[int] = field(default_factory=list)
    ended: bool = False


class AsyncLLM:
    instances: ClassVar[list["AsyncLLM"]] = []
    fails: ClassVar[str] = ""
    interval: ClassVar[int] = 1

    def __init__(self, engine_args, stat_loggers):
        self.args = engine_args
        self.loggers = [factory(object(), 0) for factory in stat_loggers]
        self.requests: dict[str, Request] = {}
        self.is_dead = False
        self.shutdown_timeout: float | None = None
        AsyncLLM.instances.append(self)

    @classmethod
    def from_engine_args(cls, engine_args, start_engine_loop=True, stat_loggers=None):
        asyncio.get_running_loop()  # outside of one, the engine's death is seen with a request only
        if cls.fails:
            raise RuntimeError(cls.fails)
        return cls(engine_args, stat_loggers or [])

    end: ClassVar[int] = 2

    def get_tokenizer(self):
        return SimpleNamespace(eos_token_id=self.end)

    @property
    def errored(self) -> bool:
        return self.is_dead

    def die(self) -> None:
        self.is_dead = True

    def record(self, running: int, usage: float) -> None:
        """One iteration's statistics."""
        stats = SimpleNamespace(num_running_reqs=running, kv_cache_usage=usage)
        for logger in self.loggers:
            logger.record(stats, None, mm_cache_stats=None, engine_idx=0)
            logger.record(None, None, mm_cache_stats=None, engine_idx=0)

    def shutdown(self, timeout: float | None = None) -> None:
        self.shutdown_timeout = timeout
        self.is_dead = True

    async def abort(self, request_id, internal: bool = False) -> None:
        await asyncio.sleep(0)
        request = self.requests.get(request_id)
        if request is not None and not request.ended:
            request.was_aborted = True

    async def generate(self, prompt, sampling_params, request_id, *, priority=0):
        if self.is_dead:
            raise EngineDeadError
        assert prompt["type"] == "token", "a raw prompt is deprecated"
        request = Request(prompt["prompt_token_ids"], sampling_params)
        assert request_id not in self.requests
        self.requests[request_id] = request
        try:
            if request.prompt == [BOOM]:
                raise EngineGenerateError
            async for output in self._outputs(request_id, request):
                if sampling_params.output_kind is not RequestOutputKind.FINAL_ONLY:
                    yield output
        except (asyncio.CancelledError, GeneratorExit):
            await self.abort(request_id)
            raise
        finally:
            request.ended = True

    async def _outputs(self, request_id, request):
        scheduled = SimpleNamespace(scheduled_ts=12.5)
        prompt = _prompt_logprobs(request)
        yield RequestOutput(request_id, prompt, [_delta(request, 0)], False, scheduled)
        while True:
            await asyncio.sleep(0.002)
            if self.is_dead:
                raise EngineDeadError
            if request.was_aborted:
                output = _delta(request, 0, "abort")
                yield RequestOutput(request_id, None, [output], True, scheduled)
                return
            if request.prompt == [WAITS]:
                continue
            count, finish = 0, None
            while finish is None and count < self.interval:
                finish = _advance(request)
                count += 1
            output = _delta(request, count, finish)
            yield RequestOutput(request_id, None, [output], finish is not None, scheduled)
            if finish:
                return


def _advance(request) -> str | None:
    token = request.prompt[len(request.tokens) % len(request.prompt)]
    request.tokens.append(token)
    if token in (request.params.stop_token_ids or ()):
        return "stop"
    return "length" if len(request.tokens) == request.params.max_tokens else None


def _delta(request, count, finish=None):
    tokens = request.tokens[len(request.tokens) - count :]
    logprobs = total = None
    if request.params.logprobs is not None:
        rows = [_row(token) for token in request.tokens]
        logprobs, total = rows[-len(tokens) :], -0.5 * len(request.tokens)
    return CompletionOutput(0, "", tokens, total, logprobs, finish)


def _row(token):
    return {token: Logprob(-0.5, 1), token + 1: Logprob(-1.5, 2)}


def _prompt_logprobs(request):
    if request.params.prompt_logprobs is None:
        return None
    return [None, *(_row(token) for token in request.prompt[1:])]
