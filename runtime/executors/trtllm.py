"""The production executor: TensorRT-LLM's LLM API, PyTorch backend.

Written against NVIDIA/TensorRT-LLM: `LLM.generate_async` and `RequestOutput` as its own Triton
model uses them (triton_backend/all_models/llmapi/tensorrt_llm/1/model.py @044a90d), results
(tensorrt_llm/executor/result.py @005bc84), sampling (tensorrt_llm/sampling_params.py @000a01d),
`LLM.generate` on token numbers (tensorrt_llm/llmapi/llm.py @0096693), several log-probabilities at
each token with the PyTorch backend (pull request 7756, September 2025), iteration statistics
(`LLM.get_stats`; `_update_iter_stats` in tensorrt_llm/_torch/pyexecutor/py_executor.py @9521caf).

Guided decoding: `GuidedDecodingParams` (tensorrt_llm/sampling_params.py @000a01d), the backends and
what each makes of a grammar (tensorrt_llm/_torch/pyexecutor/grammar_matcher.py @0fccc5b: the
backend `llguidance` reads `grammar` as llguidance's Lark), and when it is compiled
(`GuidedDecoder._build` in guided_decoder.py @07dacbb: within a step of all requests). An error
there fails its request alone since pull request 9078 (commit 079ef8ae77, 13 December 2025).
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .. import contract
from ..errors import StartError
from ..generation import Executor, Failure, Load, TokenRequest, TokenSink, TokenStep
from ..golden import ASKED, Forced, Scores, Tokens
from ..vocabulary import CheckpointVocabulary, context_length
from . import machine
from .event_loop import EventLoop, until_done

if TYPE_CHECKING:
    from .guidance import GuideCompiler

_AHEAD: Final = 8
"""Tokens decoded at once while scoring; those after one that differs are of no use."""


GUIDE_BACKEND: Final = "llguidance"
"""The backend of guided decoding whose grammars `guides` writes."""

_GUIDE_ERROR: Final = "Guided decoding error"
"""What the engine says of a grammar that becomes too complex, or allows no token, on its way."""

_STATISTICS_WAIT_S: Final = 0.1
"""How long to wait for statistics of iterations since the last time."""


class TrtllmExecutor(Executor):
    """Serves with `tensorrt_llm.LLM(**arguments)`, from an event-loop thread.

    Raises `StartError` if the bundle was built for another GPU or version, or needs something that
    this machine lacks.
    """

    def __init__(
        self, bundle: Path, arguments: Mapping[str, Any], engine: Mapping[str, Any]
    ) -> None:
        require_compatible(engine)
        checkpoint = bundle / "checkpoint"
        self.vocabulary = CheckpointVocabulary(checkpoint)
        self.context = int(arguments.get("max_seq_len") or context_length(checkpoint))
        self._view = tempfile.TemporaryDirectory(prefix="nemo-deploy-")
        if engine.get("plugin"):
            checkpoint = _with_plugin(bundle, engine, Path(self._view.name))
        import tensorrt_llm

        self._sampling_params = tensorrt_llm.SamplingParams
        # A checkpoint's own code never runs, whatever the bundle's arguments say.
        fixed = {"model": str(checkpoint), "trust_remote_code": False}
        self._llm = tensorrt_llm.LLM(**{"enable_iter_perf_stats": True, **arguments, **fixed})
        self._guides = self._guide_compiler(arguments)
        self._statistics: Mapping[str, Any] = {}
        self._loop = EventLoop("trtllm")

    def _guide_compiler(self, arguments: Mapping[str, Any]) -> GuideCompiler | None:
        """A compiler as the engine's own one (`_llguidance_tokenizer_info` in
        tensorrt_llm/llmapi/tokenizer.py); None where the engine cannot be guided."""
        if arguments.get("guided_decoding_backend") != GUIDE_BACKEND:
            return None
        from .guidance import compiler_of_engine

        return compiler_of_engine(self.vocabulary, self._llm.tokenizer.eos_token_id)

    @property
    def can_guide(self) -> bool:
        """Whether the bundle's arguments switch the engine's guided decoding on."""
        return self._guides is not None

    def compile_guide(self, grammar: str) -> str:
        """The grammar, once it is certain that the engine can compile it quickly: the engine
        compiles while all other requests wait."""
        assert self._guides is not None, "only an executor that can guide is asked"
        self._guides.compile(grammar)
        return grammar

    def submit(self, request: TokenRequest, sink: TokenSink) -> None:
        """Queue a request in TensorRT-LLM, which batches it with the others."""
        self._loop.start(self._serve(request, sink))

    def score(self, cases: Sequence[Forced]) -> list[Scores]:
        """Log-probabilities of the likeliest tokens at every forced one.

        The LLM API cannot force tokens. Each case is decoded greedily, a few tokens at a time,
        until a token differs from the forced one, and again from the position after it. So every
        position has the forced tokens before it, and most positions take the path that served
        tokens take.
        """
        scores: list[list[Mapping[int, float]]] = [[] for _ in cases]
        while left := [i for i, case in enumerate(cases) if len(scores[i]) < len(case.forced)]:
            results = self._greedy(
                [cases[i].prompt + cases[i].forced[: len(scores[i])] for i in left],
                [min(_AHEAD, len(cases[i].forced) - len(scores[i])) for i in left],
            )
            for i, result in zip(left, results, strict=True):
                output = result.outputs[0]
                for token, logprobs in zip(output.token_ids, output.logprobs, strict=True):
                    wanted = cases[i].forced[len(scores[i])]
                    scores[i].append({number: row.logprob for number, row in logprobs.items()})
                    if token != wanted:
                        break
        return list(scores)

    def _greedy(self, prompts: list[Tokens], counts: list[int]) -> list[Any]:
        parameters = [
            self._sampling_params(
                max_tokens=count, top_k=1, logprobs=ASKED, ignore_eos=True, detokenize=False
            )
            for count in counts
        ]
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        results: list[Any] = self._llm.generate(inputs, parameters, use_tqdm=False)
        return results

    @property
    def healthy(self) -> bool:
        """Whether the event loop runs."""
        return self._loop.alive

    @property
    def load(self) -> Load:
        """From the statistics of the latest iteration; those of an idle engine are out of date."""
        running = self._loop.tasks
        if running and (new := self._llm.get_stats(timeout=_STATISTICS_WAIT_S)):
            self._statistics = new[-1]
        return _load(running, self._statistics)

    def close(self, timeout: float) -> None:
        """Abandon live requests and shut the engine down; give up after `timeout` seconds."""
        if self._loop.closed:
            return
        self._loop.close(timeout / 2)
        shutdown = threading.Thread(target=self._llm.shutdown, daemon=True)
        shutdown.start()
        shutdown.join(timeout / 2)
        if self._guides is not None:
            self._guides.close(timeout / 2)
        self._view.cleanup()

    async def _serve(self, request: TokenRequest, sink: TokenSink) -> None:
        try:
            # Streamed also for a client that is not: the text stage ends answers by their text.
            arguments = sampling_arguments(request)
            if request.guide is not None:
                from tensorrt_llm.llmapi import GuidedDecodingParams

                arguments["guided_decoding"] = GuidedDecodingParams(grammar=request.guide)
            result = self._llm.generate_async(
                {"prompt_token_ids": list(request.prompt)},
                self._sampling_params(**arguments),
                streaming=True,
            )
            watch = asyncio.create_task(_abort_when_done(result, sink))
            try:
                async for output in result:
                    finish = output.outputs[0].finish_reason
                    if finish not in (None, "stop", "length"):
                        sink.fail(f"TensorRT-LLM ended the request: {finish}", Failure.INTERNAL)
                        break
                    sink.step(_step(output, request))
                    if sink.done and not output.finished:
                        result.abort()
                        break
            finally:
                watch.cancel()
        except Exception as error:
            guided = request.guide is not None and _GUIDE_ERROR in str(error)
            failure = Failure.INVALID if guided else Failure.INTERNAL
            sink.fail(f"generation failed: {type(error).__name__}: {error}", failure)


def require_compatible(engine: Mapping[str, Any]) -> None:
    """Raise `StartError` if this machine's TensorRT-LLM or GPU cannot run the engine."""
    needs = engine.get("needs") or []
    if needs:
        raise StartError(
            f"this bundle needs features that no released TensorRT-LLM has: {'; '.join(needs)}. "
            "Serve it with the reference executor, or build for another format"
        )
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("tensorrt_llm")
    except PackageNotFoundError:
        raise StartError(
            "the executor trtllm needs the package tensorrt_llm, which this Python lacks; "
            "run in the image that the bundle names, or "
            f"set {contract.EXECUTOR.name}=reference"
        ) from None
    machine.require_version("TensorRT-LLM", str(engine["trtllm_versions"]), installed)
    machine.require_gpu(engine)


def _with_plugin(bundle: Path, engine: Mapping[str, Any], into: Path) -> Path:
    """Register the engine's out-of-tree model; returns the view of the checkpoint that it needs.

    With one GPU the worker stays in this process; with more, fresh processes import the module too:
    they get `sys.path`, and `PYTHONPATH` through MPI.
    """
    name, plugin = engine["plugin"], str(bundle / "engine" / "plugin")
    if int(engine.get("gpus") or 1) == 1:
        os.environ.setdefault(contract.SINGLE_PROCESS.name, "1")
    known = os.environ.get(contract.PYTHONPATH.name, "").split(os.pathsep)
    folders = dict.fromkeys([plugin, *filter(None, known)])
    os.environ[contract.PYTHONPATH.name] = os.pathsep.join(folders)
    if plugin not in sys.path:
        sys.path.insert(0, plugin)
    # Byte code would be written into the bundle, which is to stay as it was built.
    sys.dont_write_bytecode = True
    os.environ.setdefault(contract.NO_BYTECODE.name, "1")
    try:
        module = importlib.import_module(name)
        view: Path = module.checkpoint_view(bundle / "checkpoint", into)
    except (ImportError, OSError, ValueError) as error:
        raise StartError(f"{plugin}/{name}: cannot be used: {error}") from error
    return view


def sampling_arguments(request: TokenRequest) -> dict[str, Any]:
    """Keyword arguments of `tensorrt_llm.SamplingParams` for a request.

    Stop texts are not among them: TensorRT-LLM would look for their tokens, and a text can be
    written with other tokens. The text stage looks for the text.
    """
    wanted = request.request
    arguments: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "seed": wanted.seed,
        "detokenize": False,
        "return_perf_metrics": True,  # the server measures how long requests wait
    }
    if ends := sorted(request.end_tokens):
        arguments |= {"end_id": ends[0], "stop_token_ids": ends[1:] or None}
    else:
        arguments["ignore_eos"] = True
    if wanted.greedy:
        arguments["top_k"] = 1
    else:
        arguments |= {
            "temperature": wanted.temperature,
            "top_k": wanted.top_k,
            "top_p": wanted.top_p,
        }
    if wanted.frequency_penalty:
        arguments["frequency_penalty"] = wanted.frequency_penalty
    if wanted.presence_penalty:
        arguments["presence_penalty"] = wanted.presence_penalty
    if wanted.logprobs is not None or wanted.return_cumulative_logprob:
        arguments["logprobs"] = max(wanted.logprobs or 0, 1)
    return arguments


async def _abort_when_done(result: Any, sink: TokenSink) -> None:
    """Abort a generation whose request was cancelled, streamed or not."""
    await until_done(sink)
    result.abort()


def _step(result: Any, request: TokenRequest) -> TokenStep:
    output = result.outputs[0]
    tokens = tuple(output.token_ids_diff)
    logprobs = [{n: row.logprob for n, row in rows.items()} for rows in output.logprobs_diff or ()]
    total = output.cumulative_logprob
    if not result.finished:
        return TokenStep(tokens, None, total, logprobs)
    finish = output.finish_reason or "stop"
    if finish == "stop" and not request.end_tokens.intersection(tokens[-1:]):
        # It removes a token of `stop_token_ids` from the answer, and names it as the reason.
        end = output.stop_reason if isinstance(output.stop_reason, int) else None
        tokens += () if end is None else (end,)
    return TokenStep(tokens, finish, total, logprobs, _metrics(output))


def _load(live: int, statistics: Mapping[str, Any]) -> Load:
    """What the engine is occupied with while it has `live` requests.

    Its statistics know nothing of Mamba states. There is one for each sequence, and as many as
    sequences may be active.
    """
    if not statistics:
        return Load(live)
    running = min(live, statistics["numActiveRequests"])
    most, cache = statistics["maxNumActiveRequests"], statistics.get("kvCacheStats")
    return Load(
        running,
        _share(cache["usedNumBlocks"] if live else 0, cache["maxNumBlocks"]) if cache else None,
        _share(running, most),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


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
        contract.ARRIVAL_TIME.name: _nanoseconds(times.arrival_time),
        contract.FIRST_SCHEDULED_TIME.name: _nanoseconds(times.first_scheduled_time),
        contract.FIRST_TOKEN_TIME.name: _nanoseconds(times.first_token_time),
        contract.LAST_TOKEN_TIME.name: _nanoseconds(times.last_token_time),
        contract.KV_REUSED.name: cache.num_reused_blocks,
        contract.KV_MISSED.name: cache.num_missed_blocks,
        contract.KV_NEW.name: cache.num_new_allocated_blocks,
        contract.KV_TOTAL.name: cache.num_total_allocated_blocks,
        contract.KV_HIT_RATE.name: cache.kv_cache_hit_rate,
        contract.ACCEPTANCE_RATE.name: drafts.acceptance_rate,
        contract.DRAFTS_ACCEPTED.name: drafts.total_accepted_draft_tokens,
        contract.DRAFTS.name: drafts.total_draft_tokens,
    }


def _nanoseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1) * 1000
