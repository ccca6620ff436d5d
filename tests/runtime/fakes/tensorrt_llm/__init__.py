"""A FAKE of the part of TensorRT-LLM that the production executor uses; no GPU, no model.

It answers a prompt with the prompt's own tokens, over and over. Signatures and behaviour follow
NVIDIA/TensorRT-LLM: tensorrt_llm/llmapi/llm.py @0096693 (LLM.__init__, generate_async, shutdown),
tensorrt_llm/sampling_params.py @000a01d (SamplingParams), tensorrt_llm/executor/result.py @005bc84
(CompletionOutput, and GenerationResult for RequestOutput),
tensorrt_llm/_torch/pyexecutor/py_executor.py @9521caf (`_update_iter_stats`, for `get_stats`),
tensorrt_llm/_torch/pyexecutor/grammar_matcher.py @0fccc5b and guided_decoder.py @07dacbb (guided
decoding with llguidance; an error of it fails its request, as of pull request 9078).
What it shares with upstream and makes callers stumble: each step hands out the same object,
changed; a step has `stream_interval` tokens; a token of `stop_token_ids` is removed from the
answer, its log-probabilities are not; an aborted generation gives one more step.
"""

import asyncio
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from . import llmapi

BOOM = 13
"""A prompt of this token alone fails in the engine."""


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    end_id: int | None = None
    max_tokens: int = 32
    stop: list[str] | str | None = None
    stop_token_ids: list[int] | None = None
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None
    guided_decoding: llmapi.GuidedDecodingParams | None = None
    exclude_input_from_output: bool = True
    return_perf_metrics: bool = False
    ignore_eos: bool = False
    detokenize: bool = True


@dataclass(slots=True)
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass(slots=True)
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    request_perf_metrics: object | None = None
    _last_token_ids_len: int = 0
    _last_logprobs_len: int = 0

    @property
    def token_ids_diff(self) -> list[int]:
        return self.token_ids[self._last_token_ids_len :]

    @property
    def logprobs_diff(self) -> list[dict[int, Logprob]]:
        return self.logprobs[self._last_logprobs_len :]


class RequestOutput:
    def __init__(self, prompt, sampling_params, streaming, llm):
        self.prompt, self.sampling_params, self.streaming = prompt, sampling_params, streaming
        self.interval, self.llm, self.matcher = llm.stream_interval, llm, None
        self.random = random.Random(sampling_params.seed)
        self.outputs = [CompletionOutput(0)]
        self.finished = False
        self.was_aborted = False

    def abort(self) -> None:
        self.was_aborted = True

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.finished:
            raise StopAsyncIteration
        if self.prompt == [BOOM]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        output = self.outputs[0]
        output._last_token_ids_len = len(output.token_ids)
        output._last_logprobs_len = len(output.logprobs)
        self._advance()
        while not self.finished and (
            not self.streaming or len(output.token_ids_diff) < self.interval
        ):
            await asyncio.sleep(0)
            self._advance()
        await asyncio.sleep(0.005)
        return self

    def _advance(self) -> None:
        output, wanted = self.outputs[0], self.sampling_params
        if self.was_aborted:
            output.finish_reason, self.finished = "cancelled", True
            return
        token = self.prompt[len(output.token_ids) % len(self.prompt)]
        if wanted.guided_decoding is not None:
            token = self._guided(token)
        output.token_ids.append(token)
        if wanted.logprobs is not None:
            output.cumulative_logprob = -0.5 * len(output.token_ids)
            output.logprobs.append({token: Logprob(-0.5, 1), token + 1: Logprob(-1.5, 2)})
        if len(output.token_ids) == wanted.max_tokens:
            output.finish_reason, self.finished = "length", True
        if wanted.ignore_eos:
            return
        if token == wanted.end_id:
            output.finish_reason, self.finished = "stop", True
        elif token in (wanted.stop_token_ids or ()):
            output.finish_reason, self.finished = "stop", True
            output.stop_reason = token
            output.token_ids = output.token_ids[:-1]

    def _guided(self, token: int) -> int:
        """`token` if the grammar allows it, otherwise a random one that it allows."""
        if self.matcher is None:
            self.matcher = self.llm.guided_decoder.create(self.sampling_params.guided_decoding)
        allowed = [number for number, bit in enumerate(self.matcher.compute_logit_bias()) if bit]
        if self.matcher.is_error():
            reason = f"LLGuidance matcher error: {self.matcher.get_error()}"
            raise RequestError(f"Guided decoding error: {reason}")
        token = token if token in allowed else self.random.choice(allowed)
        if not self.matcher.is_stopped():
            self.matcher.consume_token(token)
        return token


class RequestError(RuntimeError):
    """tensorrt_llm/executor/utils.py: what the result of a failed request raises."""


class GuidedDecoder:
    def __init__(self, model, end):
        import llguidance

        text = (Path(model) / "tokenizer.json").read_text()
        self.library, self.tokenizer = llguidance, llguidance.LLTokenizer(text, eos_token=end)

    def create(self, params):
        grammar = self.library.LLMatcher.grammar_from_lark(params.grammar)
        return self.library.LLMatcher(self.tokenizer, grammar, log_level=0)


class Tokenizer:
    def __init__(self, model):
        tokens = json.loads((Path(model) / "tokenizer.json").read_text())["added_tokens"]
        end = json.loads((Path(model) / "tokenizer_config.json").read_text())["eos_token"]
        self.eos_token_id = next(token["id"] for token in tokens if token["content"] == end)


class LLM:
    instances: ClassVar[list["LLM"]] = []

    def __init__(self, model, stream_interval=1, **kwargs):
        self.model, self.kwargs = model, kwargs
        self.stream_interval = stream_interval
        self.guided_decoder = None
        if kwargs.get("guided_decoding_backend") == "llguidance":
            self.guided_decoder = GuidedDecoder(model, self.tokenizer.eos_token_id)
        self.requests: list[RequestOutput] = []
        self.is_shut_down = False
        LLM.instances.append(self)

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.model)

    def generate_async(
        self,
        inputs,
        sampling_params=None,
        lora_request=None,
        prompt_adapter_request=None,
        streaming: bool = False,
    ):
        asyncio.get_running_loop()  # results are queued to the loop that asked, as there
        prompt = inputs["prompt_token_ids"]
        self.requests.append(RequestOutput(prompt, sampling_params, streaming, self))
        return self.requests[-1]

    def get_stats(self, timeout=2):
        """One iteration's statistics: two sequences run, and a quarter of the blocks is used."""
        if not self.kwargs.get("enable_iter_perf_stats"):
            return []
        cache = {"maxNumBlocks": 64, "freeNumBlocks": 48, "usedNumBlocks": 16}
        return [{"numActiveRequests": 2, "maxNumActiveRequests": 8, "kvCacheStats": cache}]

    def shutdown(self) -> None:
        self.is_shut_down = True


__version__ = "1.2.1"
__all__ = ["LLM", "SamplingParams", "llmapi"]
