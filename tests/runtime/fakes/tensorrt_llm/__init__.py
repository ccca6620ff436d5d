"""A FAKE of the part of TensorRT-LLM that the production executor uses; no GPU, no model.

It answers the prompt "abc" with the tokens "a", "b", "c", "a", ... Signatures and behaviour follow
NVIDIA/TensorRT-LLM: tensorrt_llm/llmapi/llm.py @0096693 (LLM.__init__, generate_async, shutdown),
tensorrt_llm/sampling_params.py @000a01d (SamplingParams), tensorrt_llm/executor/result.py @005bc84
(CompletionOutput, and GenerationResult for RequestOutput).
"""

import asyncio
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    max_tokens: int = 32
    stop: list[str] | str | None = None
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
    exclude_input_from_output: bool = True
    return_perf_metrics: bool = False


@dataclass(slots=True)
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    request_perf_metrics: object | None = None
    _last_text_len: int = 0

    @property
    def text_diff(self) -> str:
        return self.text[self._last_text_len :]


class RequestOutput:
    def __init__(self, prompt, sampling_params, streaming):
        self.prompt, self.sampling_params, self.streaming = prompt, sampling_params, streaming
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
        if self.prompt == "boom":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self._advance()
        while not self.streaming and not self.finished:
            await asyncio.sleep(0.005)
            self._advance()
        await asyncio.sleep(0.005)
        return self

    def _advance(self) -> None:
        output = self.outputs[0]
        output._last_text_len = len(output.text)
        if self.was_aborted:
            output.finish_reason, self.finished = "cancelled", True
            return
        output.text += self.prompt[len(output.token_ids) % len(self.prompt)]
        output.token_ids.append(len(output.token_ids))
        if self.sampling_params.logprobs:
            output.cumulative_logprob = -0.5 * len(output.token_ids)
        if len(output.token_ids) == self.sampling_params.max_tokens:
            output.finish_reason, self.finished = "length", True


class LLM:
    instances: ClassVar[list["LLM"]] = []

    def __init__(self, model, **kwargs):
        self.model, self.kwargs = model, kwargs
        self.requests: list[RequestOutput] = []
        self.is_shut_down = False
        LLM.instances.append(self)

    def generate_async(
        self,
        inputs,
        sampling_params=None,
        lora_request=None,
        prompt_adapter_request=None,
        streaming: bool = False,
    ):
        asyncio.get_running_loop()  # results are queued to the loop that asked, as there
        self.requests.append(RequestOutput(inputs, sampling_params, streaming))
        return self.requests[-1]

    def shutdown(self) -> None:
        self.is_shut_down = True


__version__ = "1.2.1"
__all__ = ["LLM", "SamplingParams"]
