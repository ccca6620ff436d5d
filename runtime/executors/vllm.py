"""The production executor on vLLM: its `AsyncLLM`, whose engine runs in processes of its own.

Written against vLLM 0.24.0 and 0.27.1, which Triton's images contain, and 0.32.0, with which it ran
on a CPU. What it relies on, in files of vllm-project/vllm at v0.24.0:

- `generate` and `abort` take our request id, and `errored` says whether the engine has died
  (vllm/v1/engine/async_llm.py);
- deltas are merged while nobody reads them, so one has several tokens; the one that ends an aborted
  request has none, and its log-probabilities are those of the whole answer, since they are cut
  `[-0:]` (`_new_completion_output`, vllm/v1/engine/output_processor.py);
- the token that ends an answer stays in its last delta (`check_stop`, vllm/v1/core/sched/utils.py);
- `prompt_logprobs` begin with None, for the first token, and come with the first delta
  (vllm/v1/engine/logprobs.py);
- a refused request is a ValueError in 0.24, and a `VLLMClientError`, which is none, in 0.27
  (vllm/exceptions.py);
- a GPU keeps seeds as 64-bit numbers with a sign: a larger one ends the engine
  (vllm/v1/worker/gpu/sample/states.py);
- the backend `guidance` follows grammars in our dialect, which `auto` would take for another one
  (vllm/v1/structured_output/backend_guidance.py).
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from .. import contract
from ..errors import StartError
from ..generation import Executor, Failure, Load, TokenRequest, TokenSink, TokenStep
from ..golden import ASKED, Forced, Scores
from ..vocabulary import CheckpointVocabulary, context_length
from . import machine
from .event_loop import EventLoop, until_done
from .guidance import compiler_of_engine
from .shared_memory import remove_names

SEEDS: Final = 2**63
"""Seeds are taken modulo this."""

_ENDED: Final = "vLLM's engine has died; restart the server"


class VllmExecutor(Executor):
    """Serves with `AsyncLLM`, whose keyword arguments are `arguments`.

    `engine` says what the bundle was built for. Raises `StartError` if that is another GPU or
    version, or if vLLM does not start.
    """

    def __init__(
        self, bundle: Path, arguments: Mapping[str, Any], engine: Mapping[str, Any]
    ) -> None:
        os.environ.update(contract.VLLM_SETTINGS)
        require_compatible(engine)
        checkpoint = bundle / "checkpoint"
        self.vocabulary = CheckpointVocabulary(checkpoint)
        self.context = int(arguments.get("max_model_len") or context_length(checkpoint))
        self._statistics = Statistics()
        self._numbers = itertools.count()
        self._loop = EventLoop("vllm")
        try:
            self._llm = self._loop.run(self._started(checkpoint, arguments))
        except Exception as error:
            self._loop.close(1)
            raise StartError(f"vLLM does not start: {_one_line(error)}") from error
        remove_names()
        self._guides = compiler_of_engine(self.vocabulary, self._llm.get_tokenizer().eos_token_id)

    async def _started(self, checkpoint: Path, arguments: Mapping[str, Any]) -> Any:
        """The engine, started in the event loop, so that its death is seen from the beginning."""
        import vllm
        from vllm.config import StructuredOutputsConfig
        from vllm.v1.engine.async_llm import AsyncLLM

        fixed = {
            "model": str(checkpoint),
            "trust_remote_code": False,  # a checkpoint's own code never runs
            "structured_outputs_config": StructuredOutputsConfig(backend="guidance"),
            "disable_log_stats": True,  # they come to `Statistics` all the same
        }
        return AsyncLLM.from_engine_args(
            vllm.AsyncEngineArgs(**{**arguments, **fixed}),
            stat_loggers=[lambda config, engine_index=0: self._statistics],
        )

    @property
    def can_guide(self) -> bool:
        """Whether guided answers end."""
        return self._guides is not None

    def compile_guide(self, grammar: str) -> str:
        """The grammar, once it is certain that the engine can compile it quickly: vLLM checks it
        while all other requests wait."""
        assert self._guides is not None, "only an executor that can guide is asked"
        self._guides.compile(grammar)
        return grammar

    def submit(self, request: TokenRequest, sink: TokenSink) -> None:
        """Queue a request in vLLM, which batches it with the others."""
        self._loop.start(self._serve(request, sink))

    def score(self, cases: Sequence[Forced]) -> list[Scores]:
        """Log-probabilities of the likeliest tokens at every forced one, in one pass a case."""
        try:
            return self._loop.run(self._scores(cases))
        except Exception as error:
            raise StartError(f"vLLM cannot score: {_one_line(error)}") from error

    @property
    def healthy(self) -> bool:
        """Whether the engine lives."""
        return self._loop.alive and not self._llm.errored

    @property
    def load(self) -> Load:
        """From the statistics of the latest iteration; those of an idle engine are out of date.

        vLLM keeps Mamba states in pages of the KV cache, so they are part of its occupancy.
        """
        return self._statistics.load(self._loop.tasks)

    def close(self, timeout: float) -> None:
        """Shut the engine down and abandon live requests; give up after `timeout` seconds."""
        if self._loop.closed:
            return
        shutdown = threading.Thread(
            target=self._llm.shutdown, kwargs={"timeout": timeout / 2}, daemon=True
        )
        shutdown.start()
        shutdown.join(timeout * 3 / 4)  # it needs the event loop
        self._loop.close(timeout / 8)
        if self._guides is not None:
            self._guides.close(timeout / 8)

    async def _serve(self, request: TokenRequest, sink: TokenSink) -> None:
        import vllm.exceptions
        from vllm.v1.engine.exceptions import EngineDeadError

        refused = getattr(vllm.exceptions, "VLLMClientError", ValueError)
        try:
            await self._generate(request, sink)
        except refused as error:
            sink.fail(f"vLLM refuses the request: {error}", Failure.INVALID)
        except EngineDeadError:
            sink.fail(_ENDED, Failure.UNAVAILABLE)
        except Exception as error:
            sink.fail(f"generation failed: {_one_line(error)}", Failure.INTERNAL)

    async def _generate(self, request: TokenRequest, sink: TokenSink) -> None:
        from vllm.inputs import tokens_input

        number = str(next(self._numbers))
        outputs = self._llm.generate(
            tokens_input(list(request.prompt)), sampling_params(request), number
        )
        watch = asyncio.create_task(self._abort_when_done(number, sink))
        try:
            async with aclosing(outputs):  # which aborts a request that has not ended
                async for output in outputs:
                    finish = output.outputs[0].finish_reason
                    if finish not in (None, "stop", "length"):
                        sink.fail(f"vLLM ended the request: {finish}", Failure.INTERNAL)
                    elif finish or output.outputs[0].token_ids:
                        sink.step(_step(output))
                    if sink.done and not output.finished:
                        break
        finally:
            watch.cancel()

    async def _abort_when_done(self, number: str, sink: TokenSink) -> None:
        """Abort a generation whose request was cancelled, also while it waits for its turn."""
        await until_done(sink)
        await self._llm.abort(number)

    async def _scores(self, cases: Sequence[Forced]) -> list[Scores]:
        return await asyncio.gather(*map(self._score, cases))

    async def _score(self, case: Forced) -> Scores:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input

        parameters = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=ASKED, detokenize=False
        )
        prompt = tokens_input([*case.prompt, *case.forced])
        rows: list[Mapping[int, Any] | None] = []
        async for output in self._llm.generate(prompt, parameters, str(next(self._numbers))):
            rows = output.prompt_logprobs or rows
        return [
            {token: row.logprob for token, row in (found or {}).items()}
            for found in rows[len(case.prompt) :]
        ]


class Statistics:
    """The latest statistics of each engine: a logger as `AsyncLLM` takes them
    (`StatLoggerBase`, vllm/v1/metrics/loggers.py at v0.24.0)."""

    def __init__(self) -> None:
        self._latest: dict[int, Any] = {}

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Take the statistics of an iteration."""
        if scheduler_stats is not None:
            self._latest[engine_idx] = scheduler_stats

    def log_engine_initialized(self) -> None:
        """Nothing is logged."""

    def log(self) -> None:
        """Nothing is logged."""

    def record_sleep_state(self, *state: Any) -> None:
        """Engines are not put to sleep."""

    def load(self, live: int) -> Load:
        """What the engines are occupied with while there are `live` requests."""
        latest = list(self._latest.values())
        if not latest:
            return Load(live)
        running = min(live, sum(engine.num_running_reqs for engine in latest))
        occupied = sum(engine.kv_cache_usage for engine in latest) / len(latest)
        return Load(running, occupied if live else 0.0)


def require_compatible(engine: Mapping[str, Any]) -> None:
    """Raise `StartError` if this machine's vLLM or GPU cannot run the engine.

    vLLM's builds for CPUs, which tests use, run it without the GPU.
    """
    if find_spec("vllm") is None:
        raise StartError(
            "the executor vllm needs the package vllm, which this Python lacks; run in the image "
            f"that the bundle names, or set {contract.EXECUTOR.name}=reference"
        )
    vllm = importlib.import_module("vllm")
    machine.require_version("vLLM", str(engine["vllm_versions"]), vllm.__version__)
    if not importlib.import_module("vllm.platforms").current_platform.is_cpu():
        machine.require_gpu(engine)


def sampling_params(request: TokenRequest) -> Any:
    """vLLM's `SamplingParams` for a request. Raises what vLLM raises for values that it refuses."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    arguments = sampling_arguments(request)
    if request.guide is not None:
        arguments["structured_outputs"] = StructuredOutputsParams(grammar=request.guide)
    return SamplingParams(**arguments, output_kind=RequestOutputKind.DELTA)


def sampling_arguments(request: TokenRequest) -> dict[str, Any]:
    """Keyword arguments of `vllm.SamplingParams` for a request.

    Stop texts are not among them: vLLM would need its detokenizer for them. The text stage looks
    for the text.
    """
    wanted = request.request
    arguments: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "seed": None if wanted.seed is None else wanted.seed % SEEDS,
        "detokenize": False,
        "ignore_eos": True,  # only our end tokens end an answer
        "stop_token_ids": sorted(request.end_tokens),
        "frequency_penalty": wanted.frequency_penalty,
        "presence_penalty": wanted.presence_penalty,
        "temperature": 0.0,
    }
    if not wanted.greedy:
        arguments |= {
            "temperature": 1.0 if wanted.temperature is None else wanted.temperature,
            "top_k": wanted.top_k or 0,
            "top_p": 1.0 if wanted.top_p is None else wanted.top_p,
        }
    if wanted.logprobs is not None or wanted.return_cumulative_logprob:
        arguments["logprobs"] = wanted.logprobs or 0
    return arguments


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _step(output: Any) -> TokenStep:
    completion = output.outputs[0]
    tokens = tuple(completion.token_ids)
    rows = (completion.logprobs or ())[-len(tokens) :] if tokens else ()
    logprobs = [{token: row.logprob for token, row in found.items()} for found in rows]
    return TokenStep(
        tokens,
        completion.finish_reason,
        completion.cumulative_logprob,
        logprobs,
        _metrics(output.metrics),
    )


def _metrics(measured: Any) -> dict[str, float]:
    """When the request was first scheduled; the engine's clock is that of `time.monotonic`."""
    scheduled = getattr(measured, "scheduled_ts", 0.0)
    return {contract.FIRST_SCHEDULED_TIME.name: int(scheduled * 1e9)} if scheduled else {}
