"""The production executor on vLLM against a labelled fake of it (fakes/vllm)."""

import json
import os
import sys
from pathlib import Path

import pytest

from nemotron_deploy.runtime.answers import Start
from nemotron_deploy.runtime.engine import Settings, create_executor, read_arguments, read_engine
from nemotron_deploy.runtime.errors import StartError
from nemotron_deploy.runtime.executors.shared_memory import remove_names
from nemotron_deploy.runtime.executors.vllm import (
    VllmExecutor,
    require_compatible,
    sampling_arguments,
)
from nemotron_deploy.runtime.generation import Failure, Load
from nemotron_deploy.runtime.golden import Forced
from nemotron_deploy.runtime.guides import any_object, grammar

pytestmark = pytest.mark.usefixtures("fakes", "hopper", "_forget")

A, B, C = 97, 98, 99


@pytest.fixture
def _forget(fakes, monkeypatch):
    """What the executor puts into the environment, and the fake itself, go with the test."""
    for name in ("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]


def _engine(**changes):
    return {"gpu": "h100", "sm": 90, "gpus": 1, "vllm_versions": ">=0.24,<0.28", **changes}


@pytest.fixture
def vllm_bundle(bundle):
    engine = bundle / "engine"
    (engine / "llm_args.yaml").unlink()
    (engine / "engine_args.yaml").write_text("max_model_len: 512\nmax_num_seqs: 4\n")
    (engine / "engine.json").write_text(json.dumps(_engine()))
    return bundle


def _start(bundle, **changes):
    arguments = {**read_arguments(bundle).values, **changes}
    return VllmExecutor(bundle, arguments, read_engine(bundle))


@pytest.fixture
def executor(vllm_bundle):
    executor = _start(vllm_bundle)
    yield executor
    executor.close(4)


@pytest.fixture
def fake():
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM


@pytest.fixture
def llm(executor, fake):
    return fake.instances[-1]


def test_the_engine_gets_the_bundles_arguments(vllm_bundle, executor, llm):
    assert llm.args.model == str(vllm_bundle / "checkpoint")
    assert (llm.args.max_model_len, llm.args.max_num_seqs, executor.context) == (512, 4, 512)
    assert llm.args.structured_outputs_config.backend == "guidance"
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_a_bundle_cannot_turn_remote_code_on(vllm_bundle, fake):
    _start(vllm_bundle, trust_remote_code=True).close(4)
    assert fake.instances[-1].args.trust_remote_code is False


def test_settings_choose_the_executor_of_the_bundle(vllm_bundle):
    create_executor(Settings(vllm_bundle, "vllm", 1, 1)).close(4)
    with pytest.raises(StartError, match="was built for the executor vllm, not for trtllm"):
        create_executor(Settings(vllm_bundle, "trtllm", 1, 1))


def test_other_executors_read_the_context_of_either_engine(vllm_bundle, tmp_path):
    script = tmp_path / "answers.jsonl"
    script.write_text('{"when": "", "pieces": ["x"]}')
    executor = create_executor(Settings(vllm_bundle, "scripted", 1, 1, script))
    assert executor.context == 512
    executor.close(4)


def test_a_bundle_without_arguments_is_named(vllm_bundle):
    (vllm_bundle / "engine" / "engine_args.yaml").unlink()
    with pytest.raises(StartError, match=r"has no llm_args\.yaml or engine_args\.yaml"):
        create_executor(Settings(vllm_bundle, "scripted", 1, 1))


def test_tokens_are_handed_over_as_they_come(executor, llm, token_request, new_sink, eventually):
    sink = new_sink()
    executor.submit(token_request([A, B, C], 5, return_cumulative_logprob=True, seed=3), sink)
    eventually(lambda: sink.done)
    assert [step.tokens for step in sink.steps] == [(A,), (B,), (C,), (A,), (B,)], "none is empty"
    assert sink.finish == "length"
    assert sink.steps[-1].cumulative_logprob == -2.5
    assert sink.steps[0].metrics == {"first_scheduled_time_ns": 12_500_000_000}
    (request,) = llm.requests.values()
    assert request.prompt == [A, B, C]
    assert request.params.detokenize is False


def test_several_tokens_may_come_at_once(
    executor, fake, token_request, new_sink, eventually, monkeypatch
):
    monkeypatch.setattr(fake, "interval", 3)
    sink = new_sink()
    executor.submit(token_request([A, B, C, A], 7, logprobs=1), sink)
    eventually(lambda: sink.done)
    assert [step.tokens for step in sink.steps] == [(A, B, C), (A, A, B), (C,)]
    assert [len(step.logprobs) for step in sink.steps] == [3, 3, 1]
    assert sink.steps[0].logprobs[1] == {B: -0.5, B + 1: -1.5}


def test_the_token_that_ends_an_answer_is_the_last_one(
    executor, token_request, new_sink, eventually
):
    sink = new_sink()
    executor.submit(token_request([A, B, C], 9, ends={C, 500}), sink)
    eventually(lambda: sink.done)
    assert (sink.tokens, sink.finish) == ([A, B, C], "stop")


@pytest.mark.parametrize("prompt", [[A], [14]], ids=["generating", "waiting"])
def test_cancelling_aborts_the_request(executor, llm, token_request, new_sink, eventually, prompt):
    sink = new_sink()
    executor.submit(token_request(prompt, 10**6, logprobs=1), sink)
    eventually(lambda: llm.requests)
    sink.cancelled = True
    (request,) = llm.requests.values()
    eventually(lambda: request.was_aborted)
    eventually(lambda: executor.load.running == 0)
    assert all(len(step.tokens) == len(step.logprobs) for step in sink.steps)


def test_an_abort_that_races_with_the_end_changes_nothing(
    executor, llm, token_request, new_sink, eventually
):
    sink = new_sink()
    executor.submit(token_request([A], 2), sink)
    eventually(lambda: sink.done)
    eventually(lambda: executor.load.running == 0)
    (request,) = llm.requests.values()
    assert not request.was_aborted
    assert sink.failure is None


def test_a_request_that_vllm_gives_up_fails(executor, llm, token_request, new_sink, eventually):
    sink = new_sink()
    executor.submit(token_request([A], 10**6), sink)
    eventually(lambda: llm.requests)
    (request,) = llm.requests.values()
    request.was_aborted = True
    eventually(lambda: sink.failure)
    assert sink.failure == ("vLLM ended the request: abort", Failure.INTERNAL)


def test_a_request_that_fails_in_the_engine_fails_alone(
    executor, token_request, new_sink, eventually
):
    broken, good = new_sink(), new_sink()
    executor.submit(token_request([13]), broken)
    executor.submit(token_request([A], 2), good)
    eventually(lambda: broken.done and good.done)
    assert broken.failure[1] is Failure.INTERNAL
    assert good.tokens == [A, A]
    assert executor.healthy


@pytest.mark.parametrize("release", ["0.24", "0.27"])
def test_what_vllm_does_not_take_is_invalid(
    executor, token_request, new_sink, eventually, monkeypatch, release
):
    if release == "0.24":
        import vllm.exceptions

        monkeypatch.delattr(vllm.exceptions, "VLLMClientError")
        monkeypatch.setattr(
            vllm.exceptions, "VLLMValidationError", type("VLLMValidationError", (ValueError,), {})
        )
    sink = new_sink()
    executor.submit(token_request([A], temperature=3.0), sink)
    eventually(lambda: sink.failure)
    assert sink.failure[1] is Failure.INVALID
    assert "vLLM refuses the request: temperature must be in [0, 2], got 3.0" in sink.failure[0]


def test_a_dead_engine_fails_live_requests_and_later_ones(
    executor, llm, token_request, new_sink, eventually
):
    live, late = new_sink(), new_sink()
    executor.submit(token_request([A], 10**6), live)
    eventually(lambda: live.steps)
    assert executor.healthy
    llm.die()
    assert not executor.healthy
    eventually(lambda: live.failure)
    executor.submit(token_request([A]), late)
    eventually(lambda: late.failure)
    expected = ("vLLM's engine has died; restart the server", Failure.UNAVAILABLE)
    assert (live.failure, late.failure) == (expected, expected)


def test_scores_are_those_of_the_forced_tokens(executor, llm):
    scores = executor.score([Forced((A, B), (C, A)), Forced((B,), (A,))])
    assert scores == [
        [{C: -0.5, C + 1: -1.5}, {A: -0.5, A + 1: -1.5}],
        [{A: -0.5, A + 1: -1.5}],
    ]
    assert [request.prompt for request in llm.requests.values()] == [[A, B, C, A], [B, A]]
    assert all(request.params.max_tokens == 1 for request in llm.requests.values())


def test_an_engine_that_dies_while_it_scores_stops_the_start(executor, llm):
    llm.die()
    with pytest.raises(StartError, match="vLLM cannot score: EngineDeadError"):
        executor.score([Forced((A,), (B,))])


def test_load_is_that_of_the_latest_iteration(executor, llm, token_request, new_sink, eventually):
    assert executor.load == Load(0)
    llm.record(2, 0.25)
    assert executor.load == Load(0, 0.0)
    sinks = [new_sink() for _ in range(3)]
    for sink in sinks:
        executor.submit(token_request([A], 10**6), sink)
    eventually(lambda: len(llm.requests) == 3)
    assert executor.load == Load(2, 0.25)
    for sink in sinks:
        sink.cancelled = True
    eventually(lambda: executor.load == Load(0, 0.0))


def test_close_shuts_the_engine_down_and_abandons_requests(
    executor, llm, token_request, new_sink, eventually
):
    sink = new_sink()
    executor.submit(token_request([A], 10**6), sink)
    eventually(lambda: sink.steps)
    executor.close(4)
    assert llm.shutdown_timeout == 2
    assert not executor.healthy
    executor.close(4)


def test_an_engine_that_does_not_start_says_why_in_one_line(vllm_bundle, fake, monkeypatch):
    monkeypatch.setattr(fake, "fails", "Engine core initialization failed.\nSee root cause above.")
    with pytest.raises(StartError) as caught:
        _start(vllm_bundle)
    assert str(caught.value) == (
        "vLLM does not start: RuntimeError: Engine core initialization failed. See root cause "
        "above."
    )
    with pytest.raises(StartError, match="no_such_argument"):
        _start(vllm_bundle, no_such_argument=1)


def test_sampling_arguments_fit_the_fakes_signature(token_request):
    import vllm

    request = token_request(
        [1], 3, ends={11, 2, 7}, temperature=0.5, top_k=4, top_p=0.5, seed=2**64 - 1, stop=("x",),
        frequency_penalty=1.0, presence_penalty=2.0, logprobs=3,
    )  # fmt: skip
    params = vllm.SamplingParams(**sampling_arguments(request))
    assert (params.temperature, params.top_k, params.top_p) == (0.5, 4, 0.5)
    assert params.seed == 2**63 - 1, "a larger one ends the engine"
    assert (params.stop_token_ids, params.ignore_eos) == ([2, 7, 11], True)
    assert (params.stop, params.logprobs, params.max_tokens) == (None, 3, 3)
    assert (params.frequency_penalty, params.presence_penalty) == (1.0, 2.0)
    greedy = vllm.SamplingParams(**sampling_arguments(token_request([1], top_p=0.5, top_k=1)))
    assert (greedy.temperature, greedy.logprobs, greedy.stop_token_ids) == (0.0, None, [])
    sampled = vllm.SamplingParams(**sampling_arguments(token_request([1], top_p=0.5)))
    assert (sampled.temperature, sampled.top_p, sampled.top_k) == (1.0, 0.5, 0)
    total = vllm.SamplingParams(
        **sampling_arguments(token_request([1], return_cumulative_logprob=True))
    )
    assert total.logprobs == 0


def test_a_guide_is_a_grammar_of_vllms(executor, llm, token_request, new_sink, eventually):
    from dataclasses import replace

    assert executor.can_guide
    text = grammar(any_object("response_format"), Start.CONTENT)
    sink = new_sink()
    request = replace(token_request([A], 2), guide=executor.compile_guide(text))
    executor.submit(request, sink)
    eventually(lambda: sink.done)
    (seen,) = llm.requests.values()
    assert seen.params.structured_outputs.grammar == text


def test_answers_that_would_not_end_are_not_guided(vllm_bundle, fake, monkeypatch):
    monkeypatch.setattr(fake, "end", 77)
    executor = _start(vllm_bundle)
    assert not executor.can_guide
    executor.close(4)


def test_a_grammar_that_cannot_be_used_is_refused(executor):
    from nemotron_deploy.runtime.errors import RequestError

    with pytest.raises(RequestError):
        executor.compile_guide("start: no_such_rule\n")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vllm_versions": ">=0.28"}, "built for vLLM >=0.28, but 0.27.1 is installed"),
        ({"sm": 80, "gpu": "a100"}, r"built for a100 \(SM80\), but the GPU here is SM90"),
        ({"gpus": 2}, r"needs 2 GPU\(s\), but 1 are visible"),
    ],
)
def test_refusals_are_one_line(changes, said):
    with pytest.raises(StartError, match=said) as caught:
        require_compatible(_engine(**changes))
    assert "\n" not in str(caught.value)
    require_compatible(_engine())


def test_vllms_build_for_cpus_needs_no_gpu(monkeypatch):
    from vllm.platforms import Platform

    monkeypatch.setattr(Platform, "cpu", True)
    require_compatible(_engine(sm=80, gpus=8))


def test_without_the_package_the_message_says_what_to_do(monkeypatch):
    from nemotron_deploy.runtime.executors import vllm

    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    with pytest.raises(StartError, match="NEMO_DEPLOY_EXECUTOR=reference"):
        require_compatible(_engine())


def test_nobody_else_needs_the_names_of_shared_memory():
    from multiprocessing import resource_tracker
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(create=True, size=4096)
    region = Path("/dev/shm") / memory.name
    assert region.exists()
    remove_names()
    remove_names()
    assert not region.exists()
    assert memory.buf is not None
    memory.buf[:4] = b"used"
    assert bytes(memory.buf[:4]) == b"used"
    resource_tracker.unregister(f"/{memory.name}", "shared_memory")
    memory.close()
