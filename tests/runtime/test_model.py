"""model.py as Triton's stub would drive it (fakes/triton_python_backend_utils), real executor."""

import importlib
import json

import numpy as np
import pytest

from nemotron_deploy.runtime.contract import INTER_TOKEN_TIME, OUTPUT_TOKENS, REQUESTS, RUNNING
from nemotron_deploy.runtime.errors import StartError

pytestmark = pytest.mark.usefixtures("fakes", "guards")


@pytest.fixture
def guards(monkeypatch):
    """FAKE: the real one would end this process' parent. Collects what is not dismissed."""
    alive = []

    class FakeGuard:
        def __init__(self, *given):
            alive.append(self)

        def report(self, health):
            pass

        def dismiss(self):
            alive.remove(self)

    monkeypatch.setattr("nemotron_deploy.runtime.triton.guard.Guard", FakeGuard)
    return alive


ID = "an-id-nobody-guesses"


def _initialize(root, /, **parameters):
    module = importlib.import_module("nemotron_deploy.runtime.triton.model")
    model = module.TritonPythonModel()
    values = {"bundle": "../..", "executor": "reference", "max_active": "2", "max_waiting": "2"}
    config = {
        "name": "tiny",
        "parameters": {k: {"string_value": v} for k, v in {**values, **parameters}.items()},
    }
    directory = root / "model_repository" / "tiny"
    model.initialize({"model_config": json.dumps(config), "model_repository": str(directory)})
    return model


@pytest.fixture
def model(bundle):
    model = _initialize(bundle)
    yield model
    model.finalize()


@pytest.fixture
def request_of(tensors):
    import triton_python_backend_utils as pb_utils

    def build(*args, request_id="", timeout=0, parameters="", **values):
        given = tensors(*args, **values)
        return pb_utils.InferenceRequest(given, request_id, timeout, parameters)

    return build


def _error(request):
    assert request.sender.ended.wait(60)
    response, flags = request.sender.sent[-1]
    assert flags == 1
    return response.error


def test_streamed_and_whole_answers_agree(model, request_of, eventually):
    streamed = request_of("Monday", streaming=True, max_tokens=8)
    whole = request_of("Monday", max_tokens=8, return_finish_reason=True)
    assert model.execute([streamed, whole]) is None
    eventually(lambda: streamed.sender.closed and whole.sender.closed)
    pieces = [response.texts()["text_output"] for response, _ in streamed.sender.sent]
    assert [flags for _, flags in streamed.sender.sent] == [0] * (len(pieces) - 1) + [1]
    ((response, _),) = whole.sender.sent
    assert response.texts()["text_output"] == b"".join(pieces)
    assert response.texts()["finish_reason"] in (b"length", b"stop")


def test_outputs_have_the_declared_types(model, request_of, eventually):
    request = request_of(
        "Monday", max_tokens=3, return_cumulative_logprob=True, return_perf_metrics=True
    )
    model.execute([request])
    eventually(lambda: request.sender.closed)
    types = {t.name(): t.as_numpy().dtype for t in request.sender.sent[0][0].tensors}
    assert types["cumulative_logprob"] == np.float32
    assert types["first_scheduled_time_ns"] == types["last_token_time_ns"] == np.int64


def test_bad_requests_are_refused_and_the_model_lives_on(model, request_of, eventually):
    import triton_python_backend_utils as pb_utils

    bad = [request_of("x", best_of=2), request_of(""), request_of("x", max_tokens=10**6)]
    good = request_of("Monday", max_tokens=2)
    model.execute([*bad, good])
    eventually(lambda: all(request.sender.closed for request in [*bad, good]))
    assert [_error(request).code() for request in bad] == [pb_utils.TritonError.INVALID_ARG] * 3
    assert good.sender.sent[-1][0].error is None
    assert model.is_ready()


def test_stop_cancels_by_id(model, request_of, eventually):
    import triton_python_backend_utils as pb_utils

    target = request_of("Monday", streaming=True, max_tokens=400, seed=1, request_id=ID)
    stop = pb_utils.InferenceRequest({"stop": np.array([True])}, ID)
    model.execute([target, stop])
    assert stop.sender.ended.wait(60)
    assert stop.sender.sent[0][0].error is None
    assert target.sender.closed
    short = pb_utils.InferenceRequest({"stop": np.array([True])}, "7")
    nameless = pb_utils.InferenceRequest({"stop": np.array([True])})
    again = pb_utils.InferenceRequest({"stop": np.array([True])}, ID)
    model.execute([nameless, again, short])
    assert "others could guess it" in _error(short).message()
    assert _error(nameless).code() == pb_utils.TritonError.INVALID_ARG
    assert again.sender.ended.wait(60)
    assert again.sender.sent[0][0].error is None


def test_more_than_the_model_takes_is_refused(model, request_of, eventually):
    import triton_python_backend_utils as pb_utils

    requests = [request_of("Monday", max_tokens=400, top_k=0, temperature=50.0) for _ in range(6)]
    model.execute(requests)
    eventually(lambda: any(r.sender.closed for r in requests))
    refused = [r for r in requests if r.sender.closed and r.sender.sent[-1][0].error]
    assert _error(refused[0]).code() == pb_utils.TritonError.UNAVAILABLE


def test_a_stream_that_lost_a_response_ends_with_an_error(model, request_of):
    request = request_of("Monday", streaming=True, max_tokens=400, temperature=50.0)
    request.sender.broken = True
    model.execute([request])
    assert _error(request).message() == "the request was cancelled"
    assert len(request.sender.sent) == 1, "tokens after those that were lost"


def test_finalize_fails_what_is_live(bundle, request_of, guards):
    import triton_python_backend_utils as pb_utils

    model = _initialize(bundle)
    request = request_of("Monday", max_tokens=400, temperature=50.0)
    model.execute([request])
    assert len(guards) == 1
    model.finalize()
    assert guards == []
    assert _error(request).code() == pb_utils.TritonError.UNAVAILABLE
    assert not model.is_ready()
    late = request_of("Monday")
    model.execute([late])
    assert _error(late).code() == pb_utils.TritonError.UNAVAILABLE


def test_metrics_are_exported_before_the_end(bundle, request_of, eventually):
    import triton_python_backend_utils as pb_utils

    model = _initialize(bundle)
    good, bad = request_of("Monday", max_tokens=2), request_of("x", best_of=2)
    model.execute([good, bad])
    eventually(lambda: good.sender.closed)
    model.finalize()
    values = {k: m.value() for k, m in pb_utils.MetricFamily.metrics.items()}
    assert all(("model", "tiny") in labels for _, *labels in values)
    requests = {
        dict(labels)["outcome"]: values[(name, *labels)]
        for name, *labels in values
        if name == REQUESTS.name
    }
    assert {outcome: n for outcome, n in requests.items() if n} == {"length": 1, "refused": 1}
    assert values[(OUTPUT_TOKENS.name, ("model", "tiny"))] == 2
    assert values[(RUNNING.name, ("model", "tiny"))] == 0
    last = (f"{INTER_TOKEN_TIME.name}_bucket", ("le", "+Inf"), ("model", "tiny"))
    assert values[last] == values[(f"{INTER_TOKEN_TIME.name}_count", ("model", "tiny"))] == 1


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"executor": "x"}, "must be one of trtllm, vllm, reference, scripted, got 'x'"),
        ({"bundle": "."}, "not a bundle"),
        ({"max_active": "0"}, "`max_active` must be a whole number above 0"),
    ],
)
def test_wrong_parameters_stop_the_start(bundle, parameters, said):
    with pytest.raises(StartError, match=said):
        _initialize(bundle, **parameters)


def test_the_reason_of_a_failed_start_is_the_termination_message(bundle, monkeypatch, tmp_path):
    log = tmp_path / "termination-log"
    module = importlib.import_module("nemotron_deploy.runtime.triton.model")
    monkeypatch.setattr(module, "TERMINATION_LOG", log)
    with pytest.raises(StartError):
        _initialize(bundle, bundle=".")
    assert not log.exists()  # as everywhere but in Kubernetes
    log.touch()
    with pytest.raises(StartError) as failure:
        _initialize(bundle, bundle=".")
    assert log.read_text() == str(failure.value)


def test_the_environment_overrides_the_executor(bundle, monkeypatch):
    monkeypatch.setenv("NEMO_DEPLOY_EXECUTOR", "nonsense")
    with pytest.raises(StartError, match="got 'nonsense'"):
        _initialize(bundle)


@pytest.mark.parametrize(
    "given", [{"timeout": 1}, {"parameters": '{"timeout": 1}'}], ids=["grpc", "generate"]
)
def test_a_deadline_ends_a_request(model, request_of, eventually, given):
    import triton_python_backend_utils as pb_utils

    request = request_of("Monday", streaming=True, max_tokens=400, temperature=50.0, **given)
    model.execute([request])
    eventually(lambda: request.sender.closed)
    assert _error(request).code() == pb_utils.TritonError.CANCELLED
    assert "the deadline of the request has passed" in _error(request).message()


@pytest.mark.parametrize("timeout", ["-1", '"1"', "1.5", "true"])
def test_a_timeout_that_is_no_time_is_refused(model, request_of, timeout):
    request = request_of("Monday", parameters=f'{{"timeout": {timeout}}}')
    model.execute([request])
    assert "timeout must be a whole number of microseconds" in _error(request).message()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NEMO_DEPLOY_MAX_WAITING", "0", "`max_waiting` must be a whole number above 0"),
        ("NEMO_DEPLOY_STALL_SECONDS", "soon", "STALL_SECONDS must be a number of seconds"),
        ("NEMO_DEPLOY_DEAD_SECONDS", "-3", "DEAD_SECONDS must be a number of seconds"),
    ],
)
def test_wrong_settings_in_the_environment(bundle, monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError, match=said):
        _initialize(bundle)
