"""The production executor against a labelled fake of tensorrt_llm (fakes/tensorrt_llm)."""

import json
import os
import sys
from pathlib import Path

import jsonschema
import pytest

from nemotron_deploy.runtime.answers import Start
from nemotron_deploy.runtime.engine import read_arguments, read_engine
from nemotron_deploy.runtime.errors import RequestError, StartError
from nemotron_deploy.runtime.executors import machine
from nemotron_deploy.runtime.executors.trtllm import (
    TrtllmExecutor,
    require_compatible,
    sampling_arguments,
)
from nemotron_deploy.runtime.generation import Failure, Load
from nemotron_deploy.runtime.guides import Guide, grammar

pytestmark = pytest.mark.usefixtures("fakes", "hopper")


@pytest.fixture
def executor(bundle):
    executor = TrtllmExecutor(bundle, read_arguments(bundle).values, read_engine(bundle))
    yield executor
    executor.close(5)


@pytest.fixture
def llm(executor):
    import tensorrt_llm

    return tensorrt_llm.LLM.instances[-1]


def test_llm_gets_the_bundles_arguments(bundle, llm):
    assert llm.model == str(bundle / "checkpoint")
    assert llm.kwargs == {
        "backend": "pytorch", "max_seq_len": 512, "trust_remote_code": False,
        "enable_iter_perf_stats": True,
    }  # fmt: skip


def test_load_is_that_of_the_latest_iteration(executor, llm, token_request, new_sink, eventually):
    assert executor.load == Load(0)
    sinks = [new_sink() for _ in range(3)]
    for sink in sinks:
        executor.submit(token_request([A], 10**6), sink)
    eventually(lambda: len(llm.requests) == 3)
    assert executor.load == Load(2, 0.25, 0.25)
    for sink in sinks:
        sink.cancelled = True
    eventually(lambda: executor.load.running == 0)
    assert executor.load == Load(0, 0.0, 0.0)


def test_without_statistics_the_load_is_the_requests(bundle, token_request, new_sink, eventually):
    arguments = {**read_arguments(bundle).values, "enable_iter_perf_stats": False}
    executor, sink = TrtllmExecutor(bundle, arguments, read_engine(bundle)), new_sink()
    executor.submit(token_request([A], 10**6), sink)
    eventually(lambda: executor.load == Load(1))
    executor.close(5)


def test_a_bundle_cannot_turn_remote_code_on(bundle):
    import tensorrt_llm

    arguments = {**read_arguments(bundle).values, "trust_remote_code": True}
    TrtllmExecutor(bundle, arguments, read_engine(bundle)).close(5)
    assert tensorrt_llm.LLM.instances[-1].kwargs["trust_remote_code"] is False


A, B, C = 97, 98, 99


def test_tokens_are_handed_over_as_they_come(executor, llm, token_request, new_sink, eventually):
    sink = new_sink()
    executor.submit(token_request([A, B, C], 5, return_cumulative_logprob=True, seed=3), sink)
    eventually(lambda: sink.done)
    assert [step.tokens for step in sink.steps] == [(A,), (B,), (C,), (A,), (B,)]
    assert sink.finish == "length"
    assert sink.steps[-1].cumulative_logprob == -2.5
    assert llm.requests[0].prompt == [A, B, C]
    assert llm.requests[0].sampling_params.detokenize is False


def test_several_tokens_may_come_at_once(bundle, token_request, new_sink, eventually):
    arguments = {**read_arguments(bundle).values, "stream_interval": 3}
    executor, sink = TrtllmExecutor(bundle, arguments, read_engine(bundle)), new_sink()
    executor.submit(token_request([A, B, C, A], 7, logprobs=1), sink)
    eventually(lambda: sink.done)
    executor.close(5)
    assert [step.tokens for step in sink.steps] == [(A, B, C), (A, A, B), (C,)]
    assert [len(step.logprobs) for step in sink.steps] == [3, 3, 1]
    assert sink.steps[0].logprobs[1] == {B: -0.5, B + 1: -1.5}


@pytest.mark.parametrize("ends", [{C}, {C, 500}, {5, C}])
def test_the_token_that_ends_an_answer_is_the_last_one(
    executor, token_request, new_sink, eventually, ends
):
    """TensorRT-LLM keeps it if it is the first end token, and removes it if it is another one."""
    sink = new_sink()
    executor.submit(token_request([A, B, C], 9, ends=ends), sink)
    eventually(lambda: sink.done)
    assert sink.tokens == [A, B, C]
    assert sink.finish == "stop"


def test_end_tokens_may_be_ignored(executor, token_request, new_sink, eventually):
    sink = new_sink()
    executor.submit(token_request([A, B], 4), sink)
    eventually(lambda: sink.done)
    assert (sink.tokens, sink.finish) == ([A, B, A, B], "length")


def test_cancelling_aborts_the_generation(executor, llm, token_request, new_sink, eventually):
    sink = new_sink()
    executor.submit(token_request([A], 10**6), sink)
    eventually(lambda: llm.requests)
    sink.cancelled = True
    eventually(lambda: llm.requests[0].was_aborted)


def test_a_request_that_the_engine_gives_up_fails(
    executor, llm, token_request, new_sink, eventually
):
    sink = new_sink()
    executor.submit(token_request([A], 10**6), sink)
    eventually(lambda: llm.requests)
    llm.requests[0].abort()
    eventually(lambda: sink.failure)
    assert sink.failure == ("TensorRT-LLM ended the request: cancelled", Failure.INTERNAL)


def test_nothing_is_generated_after_a_stop_text(executor, llm, eventually):
    """The stop text spans tokens that TensorRT-LLM would not look for."""
    from nemotron_deploy.runtime.generation import GenerationRequest
    from nemotron_deploy.runtime.sessions import Sessions
    from nemotron_deploy.runtime.stage import Prepared, TextStage

    sent = []

    class Channel:
        def send(self, outputs, final):
            sent.append((outputs, final))

        def send_error(self, message, failure):
            raise AssertionError(message)

        def is_cancelled(self):
            return False

    sessions = Sessions(1)
    request = GenerationRequest("x", stop=("lo, wor",), return_stop_reason=True)
    prompt = executor.tokens("hello, world. ")
    prepared = Prepared(request, "x", prompt, max_tokens=10**6)
    session = sessions.open("", request, Channel())
    TextStage(prepared, executor.answers, executor.submit, session).start()
    eventually(lambda: llm.requests and llm.requests[0].was_aborted)
    sessions.close()
    ((outputs, final),) = sent
    assert outputs["text_output"] == "hel"
    assert outputs["stop_reason"] == "lo, wor"
    assert outputs["num_output_tokens"] <= len(prompt)
    assert final


def test_a_request_that_fails_in_the_engine_fails_alone(
    executor, token_request, new_sink, eventually
):
    from tensorrt_llm import BOOM

    broken, good = new_sink(), new_sink()
    executor.submit(token_request([BOOM]), broken)
    executor.submit(token_request([A], 2), good)
    eventually(lambda: broken.done and good.done)
    assert broken.failure[1] is Failure.INTERNAL
    assert "illegal memory access" in broken.failure[0]
    assert good.tokens == [A, A]
    assert executor.healthy


def test_close_shuts_the_engine_down(executor, llm):
    executor.close(5)
    assert llm.is_shut_down
    assert not executor.healthy


GUIDED = {"backend": "pytorch", "max_seq_len": 512, "guided_decoding_backend": "llguidance"}


@pytest.fixture
def guided(bundle):
    executor = TrtllmExecutor(bundle, GUIDED, read_engine(bundle))
    yield executor
    executor.close(5)


def test_the_engine_is_given_the_grammar(guided, token_request, new_sink, eventually):
    """The fake follows the grammar with llguidance, as TensorRT-LLM does."""
    import tensorrt_llm

    schema = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    text = grammar(Guide("response_format", schema=schema), Start.CONTENT)
    guide = guided.compile_guide(text)
    sink = new_sink()
    guided.submit(token_request([A], 40, ends={2}, guide=guide), sink)
    eventually(lambda: sink.done)
    assert sink.failure is None
    assert sink.finish == "stop"
    *answer, end = sink.tokens
    assert end == 2
    jsonschema.validate(json.loads(guided.vocabulary.decode(answer)), schema)
    params = tensorrt_llm.LLM.instances[-1].requests[0].sampling_params.guided_decoding
    assert params == tensorrt_llm.llmapi.GuidedDecodingParams(grammar=text)


def test_what_the_engine_cannot_follow_is_refused_or_fails_alone(
    guided, token_request, new_sink, eventually
):
    unknown = 'start: %json {"if": {}}'
    with pytest.raises(RequestError, match=r'Unimplemented keys: \["if"\]'):
        guided.compile_guide(unknown)
    broken, other = new_sink(), new_sink()
    guided.submit(token_request([A], 5, guide=unknown), broken)
    guided.submit(token_request([A], 5), other)
    eventually(lambda: broken.done and other.done)
    assert broken.failure[1] is Failure.INVALID
    assert "Guided decoding error: LLGuidance matcher error" in broken.failure[0]
    assert other.finish == "length"


@pytest.mark.parametrize("backend", [None, "xgrammar"])
def test_without_the_backend_nothing_is_guided(bundle, guided, backend):
    arguments = {**GUIDED, "guided_decoding_backend": backend}
    executor = TrtllmExecutor(bundle, arguments, read_engine(bundle))
    assert (executor.can_guide, guided.can_guide) == (False, True)
    executor.close(5)


def test_an_end_that_would_not_end_the_answer_is_not_guided(bundle):
    """TensorRT-LLM ends a guided answer with the tokenizer's end token and no other one."""
    (bundle / "checkpoint" / "generation_config.json").write_text('{"eos_token_id": [1]}')
    executor = TrtllmExecutor(bundle, GUIDED, read_engine(bundle))
    assert not executor.can_guide
    executor.close(5)


def test_sampling_arguments_fit_the_fakes_signature(token_request):
    import tensorrt_llm

    request = token_request(
        [1], 3, ends={11, 2, 7}, temperature=0.5, top_k=4, top_p=0.5, seed=9, stop=("x",),
        frequency_penalty=1.0, presence_penalty=2.0, logprobs=3,
    )  # fmt: skip
    params = tensorrt_llm.SamplingParams(**sampling_arguments(request))
    assert (params.temperature, params.top_k, params.top_p, params.seed) == (0.5, 4, 0.5, 9)
    assert (params.end_id, params.stop_token_ids, params.ignore_eos) == (2, [7, 11], False)
    assert (params.stop, params.logprobs, params.max_tokens) == (None, 3, 3)
    greedy = tensorrt_llm.SamplingParams(**sampling_arguments(token_request([1])))
    assert (greedy.temperature, greedy.top_k, greedy.top_p) == (None, 1, None)
    assert (greedy.end_id, greedy.ignore_eos) == (None, True)


def _engine(**changes):
    return {
        "gpu": "h100", "sm": 90, "gpus": 1, "trtllm_versions": ">=1.2.1,<1.3", "needs": [],
        "plugin": None, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"needs": ["an INT4 MoE kernel"]},
            "needs features that no released TensorRT-LLM has: an INT4 MoE",
        ),
        ({"trtllm_versions": ">=1.3"}, "built for TensorRT-LLM >=1.3, but 1.2.1 is installed"),
        ({"sm": 80, "gpu": "a100"}, r"built for a100 \(SM80\), but the GPU here is SM90"),
        (
            {"gpu_memory_bytes": 101_000_000_000},
            r"planned for h100 with 101.0 GB of memory, but the GPU here has 85.0 GB",
        ),
        ({"gpus": 2}, r"needs 2 GPU\(s\), but 1 are visible"),
    ],
)
def test_refusals_are_one_line(changes, said):
    with pytest.raises(StartError, match=said) as caught:
        require_compatible(_engine(**changes))
    assert "\n" not in str(caught.value)
    require_compatible(_engine())
    require_compatible(_engine(gpu_memory_bytes=85_500_000_000))


@pytest.mark.parametrize(("cuda", "refused"), [((11, 8), True), ((12, 4), False), (None, False)])
def test_a_driver_too_old_for_the_kernels_is_named(monkeypatch, cuda, refused):
    monkeypatch.setattr(machine, "driver_cuda_version", lambda: cuda)
    engine = _engine(driver={"version": "525.60.13", "cuda": 12})
    if not refused:
        require_compatible(engine)
        return
    with pytest.raises(StartError, match=r"need NVIDIA driver 525\.60\.13 or later.*CUDA 11\.8"):
        require_compatible(engine)


def test_without_the_package_the_message_says_what_to_do(monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(StartError, match="NEMO_DEPLOY_EXECUTOR=reference"):
        require_compatible(_engine())


def test_the_plugin_is_imported_before_the_engine_starts(bundle, monkeypatch):
    for name in ("TLLM_WORKER_USE_SINGLE_PROCESS", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    plugin = bundle / "engine" / "plugin" / "test_plugin_of_ours"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text("""
import sys
assert "tensorrt_llm" not in sys.modules
def checkpoint_view(checkpoint, into):
    (into / "made").write_text(str(checkpoint))
    return into
""")
    path = bundle / "engine" / "engine.json"
    path.write_text(json.dumps(_engine(plugin="test_plugin_of_ours")))
    monkeypatch.setattr(sys, "path", [*sys.path])
    executor = TrtllmExecutor(bundle, read_arguments(bundle).values, read_engine(bundle))
    import tensorrt_llm

    shown = Path(tensorrt_llm.LLM.instances[-1].model)
    assert (shown / "made").read_text() == str(bundle / "checkpoint")
    executor.close(5)
    assert not shown.exists()
    assert os.environ["TLLM_WORKER_USE_SINGLE_PROCESS"] == "1"
    assert os.environ["PYTHONPATH"].split(os.pathsep)[0] == str(plugin.parent)
    assert not list(plugin.rglob("__pycache__"))
    path.write_text(json.dumps(_engine(plugin="no_such_plugin")))
    with pytest.raises(StartError, match="no_such_plugin: cannot be used: No module named"):
        TrtllmExecutor(bundle, read_arguments(bundle).values, read_engine(bundle))


def test_more_gpus_mean_workers_of_their_own(bundle, monkeypatch):
    """They import the plugin by its name, and must not share this process."""
    monkeypatch.setenv("TLLM_WORKER_USE_SINGLE_PROCESS", "")
    monkeypatch.delenv("TLLM_WORKER_USE_SINGLE_PROCESS")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(sys, "path", [*sys.path])
    plugin = bundle / "engine" / "plugin" / "test_plugin_for_two"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text("def checkpoint_view(checkpoint, into):\n    return into\n")
    path = bundle / "engine" / "engine.json"
    path.write_text(json.dumps(_engine(plugin="test_plugin_for_two", gpus=2)))
    TrtllmExecutor(bundle, read_arguments(bundle).values, read_engine(bundle)).close(5)
    assert "TLLM_WORKER_USE_SINGLE_PROCESS" not in os.environ
    assert os.environ["PYTHONPATH"] == f"{plugin.parent}{os.pathsep}/elsewhere"
