"""The production executor: TensorRT-LLM's LLM API, PyTorch backend.

Written against NVIDIA/TensorRT-LLM: `LLM.generate_async` and `RequestOutput` as its own Triton
model uses them (triton_backend/all_models/llmapi/tensorrt_llm/1/model.py @044a90d), results
(tensorrt_llm/executor/result.py @005bc84), sampling (tensorrt_llm/sampling_params.py @000a01d).
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
from collections.abc import Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from .generation import Executor, Failure, GenerationRequest, Sink, StartError, Step


class TrtllmExecutor(Executor):
    """Serves with `tensorrt_llm.LLM(**arguments)` in this process' event-loop thread.

    Raises `StartError` where the bundle was built for another GPU or version, or needs what this
    machine lacks.
    """

    def __init__(
        self, bundle: Path, arguments: Mapping[str, Any], engine: Mapping[str, Any]
    ) -> None:
        require_compatible(engine)
        _import_plugin(bundle, engine)
        import tensorrt_llm

        self._sampling_params = tensorrt_llm.SamplingParams
        self._llm = tensorrt_llm.LLM(**{**arguments, "model": str(bundle / "checkpoint")})
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trtllm", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, sink: Sink) -> None:
        """Queue a request in TensorRT-LLM, which batches it with the others."""
        self._loop.call_soon_threadsafe(self._start, self._serve(request, sink))

    @property
    def healthy(self) -> bool:
        """Whether the event loop runs."""
        return self._thread.is_alive()

    def close(self, timeout: float) -> None:
        """Abandon what is live and shut the engine down, or leave it behind after `timeout` s."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._abandon(), self._loop)
        self._thread.join(timeout / 2)
        if not self._thread.is_alive():
            self._loop.close()
        shutdown = threading.Thread(target=self._llm.shutdown, daemon=True)
        shutdown.start()
        shutdown.join(timeout / 2)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _abandon(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.stop()

    async def _serve(self, request: GenerationRequest, sink: Sink) -> None:
        try:
            result = self._llm.generate_async(
                request.prompt,
                self._sampling_params(**sampling_arguments(request)),
                streaming=request.streaming,
            )
            watch = asyncio.create_task(_abort_when_done(result, sink))
            try:
                async for output in result:
                    sink.step(_step(output, request))
            finally:
                watch.cancel()
        except Exception as error:
            sink.fail(f"generation failed: {type(error).__name__}: {error}", Failure.INTERNAL)


def require_compatible(engine: Mapping[str, Any]) -> None:
    """Refuse, in one line, an engine that this machine's TensorRT-LLM or GPU cannot run."""
    needs = engine.get("needs") or []
    if needs:
        raise StartError(
            f"this bundle needs what no released TensorRT-LLM has: {'; '.join(needs)}. "
            "Serve it with the reference executor, or build for another format"
        )
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("tensorrt_llm")
    except PackageNotFoundError:
        raise StartError(
            "the executor trtllm needs the package tensorrt_llm, which this Python lacks; "
            "run in the image that the bundle names, or set NEMO_DEPLOY_EXECUTOR=reference"
        ) from None
    from packaging.specifiers import SpecifierSet

    wanted = str(engine["trtllm_versions"])
    if not SpecifierSet(wanted).contains(installed, prereleases=True):
        raise StartError(
            f"this bundle was built for TensorRT-LLM {wanted}, but {installed} is installed; "
            "run the image that the bundle names, or build again for this one"
        )
    _require_gpu(engine)


def _require_gpu(engine: Mapping[str, Any]) -> None:
    import torch

    count, wanted = torch.cuda.device_count(), int(engine.get("gpus") or 1)
    if count < wanted:
        raise StartError(f"this bundle needs {wanted} GPU(s), but {count} can be seen")
    major, minor = torch.cuda.get_device_capability()
    if major * 10 + minor != engine["sm"]:
        raise StartError(
            f"this bundle was built for {engine['gpu']} (SM{engine['sm']}), "
            f"but the GPU here is SM{major * 10 + minor}; build again for this GPU"
        )


def _import_plugin(bundle: Path, engine: Mapping[str, Any]) -> None:
    """Register the engine's out-of-tree model, in this process: the worker must run here too."""
    name = engine.get("plugin")
    if not name:
        return
    os.environ.setdefault("TLLM_WORKER_USE_SINGLE_PROCESS", "1")
    sys.path.insert(0, str(bundle / "engine"))
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise StartError(f"{bundle / 'engine' / name}: cannot be imported: {error}") from error


def sampling_arguments(request: GenerationRequest) -> dict[str, Any]:
    """Keyword arguments of `tensorrt_llm.SamplingParams` for a request.

    The prompt is never asked for: the session prepends it where it is wanted.
    """
    arguments: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "seed": request.seed,
        "stop": list(request.stop) or None,
        "exclude_input_from_output": True,
        "return_perf_metrics": request.return_perf_metrics,
    }
    if request.greedy:
        arguments["top_k"] = 1
    else:
        arguments |= {
            "temperature": request.temperature,
            "top_k": request.top_k,
            "top_p": request.top_p,
        }
    if request.frequency_penalty:
        arguments["frequency_penalty"] = request.frequency_penalty
    if request.presence_penalty:
        arguments["presence_penalty"] = request.presence_penalty
    if request.return_cumulative_logprob:
        arguments["logprobs"] = 1
    return arguments


async def _abort_when_done(result: Any, sink: Sink, period: float = 0.05) -> None:
    """Abort a generation whose request was cancelled, streamed or not."""
    while not sink.done:
        await asyncio.sleep(period)
    result.abort()


def _step(result: Any, request: GenerationRequest) -> Step:
    output = result.outputs[0]
    text = output.text_diff if request.streaming else output.text
    if not result.finished:
        return Step(text)
    reason = "" if output.stop_reason is None else str(output.stop_reason)
    logprob = output.cumulative_logprob
    metrics = _metrics(output) if request.return_perf_metrics else {}
    return Step(text, output.finish_reason or "stop", reason, logprob, metrics)


def _metrics(output: Any) -> dict[str, float]:
    """TensorRT-LLM's measurements of one request, under the names of our outputs."""
    measured = getattr(output, "request_perf_metrics", None)
    if measured is None:
        return {}
    times, cache, drafts = (
        measured.timing_metrics,
        measured.kv_cache_metrics,
        measured.speculative_decoding,
    )
    return {
        "arrival_time_ns": _nanoseconds(times.arrival_time),
        "first_scheduled_time_ns": _nanoseconds(times.first_scheduled_time),
        "first_token_time_ns": _nanoseconds(times.first_token_time),
        "last_token_time_ns": _nanoseconds(times.last_token_time),
        "kv_cache_reused_block": cache.num_reused_blocks,
        "kv_cache_missed_block": cache.num_missed_blocks,
        "kv_cache_alloc_new_blocks": cache.num_new_allocated_blocks,
        "kv_cache_alloc_total_blocks": cache.num_total_allocated_blocks,
        "kv_cache_hit_rate": cache.kv_cache_hit_rate,
        "acceptance_rate": drafts.acceptance_rate,
        "total_accepted_draft_tokens": drafts.total_accepted_draft_tokens,
        "total_draft_tokens": drafts.total_draft_tokens,
    }


def _nanoseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1) * 1000
