"""Whole tests against the FAKE server of conftest.py."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from nemotron_deploy import loadtest
from nemotron_deploy.core.errors import BadInputError, UsageError
from nemotron_deploy.loadtest import LoadTest, Progress, arrivals


def prompt(**options: Any) -> str:
    return json.dumps(options)


def config(*prompts: str, **fields: Any) -> LoadTest:
    return LoadTest(prompts=prompts or (prompt(),), **{"warmup": 0, "timeout_s": 10.0, **fields})


def test_levels_are_run_in_turn_and_counted(fake_triton: Callable[..., Any]) -> None:
    server = fake_triton()
    seen: list[Progress] = []
    test = config(concurrencies=(1, 3), requests=6, warmup=2, max_tokens=7)
    report = loadtest.run(server.url, test, on_progress=seen.append)
    assert [run.level.concurrency for run in report.runs] == [1, 3]
    assert [(run.requests, run.errors, run.output_tokens) for run in report.runs] == [
        (6, 0, 12)
    ] * 2
    assert [(each.index, each.done) for each in seen] == [
        (i, n) for i in (0, 1) for n in range(1, 7)
    ]
    assert report.token_counting == "responses"
    assert report.ok
    assert len(server.seen) == 2 + 12, "the warm-up is sent and not counted"
    assert len({request.id for request in server.seen}) == 14
    tensors = {tensor.name: tensor for tensor in server.seen[0].inputs}
    assert tensors["sampling_param_max_tokens"].contents.int_contents == [7]
    assert tensors["streaming"].contents.bool_contents == [True]
    assert all(list(tensor.shape) == [1] for tensor in tensors.values())


@pytest.mark.parametrize("texts", [["one", " two", " three"], ["one", "one two", "one two three"]])
def test_tokens_are_counted_by_a_tokenizer(
    fake_triton: Callable[..., Any], texts: list[str]
) -> None:
    test = config(prompt(texts=texts), requests=2, count_tokens=lambda text: len(text.split()))
    report = loadtest.run(fake_triton().url, test)
    assert report.token_counting == "tokenizer"
    assert report.runs[0].output_tokens == 2 * 3


def test_an_open_loop_keeps_to_its_arrivals(fake_triton: Callable[..., Any]) -> None:
    test = config(rate=50.0, requests=10)
    (run,) = loadtest.run(fake_triton().url, test).runs
    assert (run.requests, run.errors) == (10, 0)
    assert run.to_json()["rate"] == 50.0
    assert run.duration_s >= max(arrivals.poisson(50.0, 10, test.seed))


def test_an_open_loop_counts_from_when_a_request_was_due(fake_triton: Callable[..., Any]) -> None:
    def stall(progress: Progress) -> None:
        if progress.done == 1:
            time.sleep(0.6)  # most requests fall due meanwhile and are sent late

    test = config(rate=100.0, requests=20)
    (run,) = loadtest.run(fake_triton().url, test, on_progress=stall).runs
    assert run.ttft.p50 is not None
    assert run.ttft.p50 > 200


def test_streams_are_spread_over_connections(fake_triton: Callable[..., Any]) -> None:
    server = fake_triton()
    loadtest.run(server.url, config(prompt(gap_s=0.05), concurrencies=(3,), requests=3))
    assert len(set(server.peers)) == 3


def test_a_full_connection_takes_no_more_streams(
    fake_triton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nemotron_deploy.loadtest.server.CONNECTIONS", 1)
    monkeypatch.setattr("nemotron_deploy.loadtest.server.STREAMS_PER_CONNECTION", 2)
    server = fake_triton()
    loadtest.run(server.url, config(prompt(gap_s=0.05), concurrencies=(3,), requests=3))
    assert len(set(server.peers)) == 2


def test_failures_are_counted_by_message(fake_triton: Callable[..., Any]) -> None:
    prompts = (prompt(), prompt(error="out of\nblocks"), prompt(texts=[]), prompt(cut=True))
    (run,) = loadtest.run(fake_triton().url, config(*prompts, requests=8)).runs
    assert run.error_messages == {
        "out of blocks": 2,
        "the model ended without any text": 2,
        "the stream was closed before its final response": 2,
    }
    assert (run.requests, run.errors, run.ttft.samples) == (8, 6, 2)


def test_a_request_that_hangs_is_an_error(fake_triton: Callable[..., Any]) -> None:
    test = config(prompt(), prompt(hang=True), requests=4, timeout_s=0.3)
    report = loadtest.run(fake_triton().url, test)
    assert report.runs[0].error_messages == {"no complete answer within 0.3 s": 2}
    assert report.aborted is None


def test_a_draining_server_is_tried_once_more(fake_triton: Callable[..., Any]) -> None:
    (run,) = loadtest.run(fake_triton(drain=1).url, config(requests=3)).runs
    assert (run.retries, run.errors) == (1, 0)


def test_the_second_try_takes_a_new_connection(fake_triton: Callable[..., Any]) -> None:
    server = fake_triton(drain_first_peer=True)
    (run,) = loadtest.run(server.url, config(requests=3)).runs
    assert (run.retries, run.errors) == (1, 0)
    assert len(set(server.peers)) == 2, "later requests stay on the new connection"


def test_a_failed_stream_is_closed(fake_triton: Callable[..., Any]) -> None:
    server = fake_triton()
    (run,) = loadtest.run(server.url, config(prompt(error="boom", hang=True), requests=1)).runs
    assert run.error_messages == {"boom": 1}
    assert server.cancelled.wait(timeout=10)


def test_a_server_that_stays_drained_is_an_error(fake_triton: Callable[..., Any]) -> None:
    report = loadtest.run(fake_triton(drain=4).url, config(requests=3))
    (run,) = report.runs
    assert (run.retries, run.errors) == (2, 2)
    assert "has no available versions" in next(iter(run.error_messages))
    assert report.aborted is None, "the server is alive"


def test_a_dead_server_ends_the_test_with_what_was_measured(
    fake_triton: Callable[..., Any],
) -> None:
    server = fake_triton()
    prompts = [prompt(gap_s=0.01)] * 5 + [prompt(die=True)]
    report = loadtest.run(server.url, config(*prompts, concurrencies=(1, 2), requests=100))
    assert server.url in str(report.aborted)
    assert not report.ok
    (run,) = report.runs
    assert not run.complete
    assert run.requests - run.errors == 5
    assert run.requests < 100


def test_an_interrupt_ends_the_streams(fake_triton: Callable[..., Any]) -> None:
    server = fake_triton()

    def interrupt(progress: Progress) -> None:
        if server.hanging.is_set():
            signal.raise_signal(signal.SIGINT)

    prompts = [prompt(hang=True)] + [prompt()] * 999
    test = config(*prompts, concurrencies=(2,), requests=1000)
    with pytest.raises(KeyboardInterrupt):
        loadtest.run(server.url, test, on_progress=interrupt)
    assert server.cancelled.wait(timeout=10)


@pytest.mark.parametrize(
    ("server", "model", "problem"),
    [
        ({"ready": False}, None, "not ready"),
        ({"models": ()}, None, "ready models: none"),
        ({"models": ("b", "a")}, None, "ready models: a, b"),
        ({"models": ("a", "b")}, "c", "no ready model 'c'; ready models: a, b"),
        ({"decoupled": False}, None, "does not stream"),
        ({"inputs": ("text_input",)}, None, "no tensor sampling_param_max_tokens, streaming"),
    ],
)
def test_a_server_that_cannot_be_tested_is_refused(
    fake_triton: Callable[..., Any], server: dict[str, Any], model: str | None, problem: str
) -> None:
    started = fake_triton(**server)
    with pytest.raises(BadInputError, match=problem):
        loadtest.run(started.url, config(model=model))
    assert not started.seen


def test_one_of_several_models_is_chosen(fake_triton: Callable[..., Any]) -> None:
    server = fake_triton(models=("a", "b"))
    assert loadtest.run(server.url, config(model="b", requests=1)).model == "b"


def test_a_refused_connection_names_the_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(BadInputError, match=f"grpc://127.0.0.1:{port}"):
            loadtest.run(f"127.0.0.1:{port}", config())


def test_an_http_address_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="gRPC"):
        loadtest.run("http://localhost:8000", config())


def test_the_room_is_cheap_to_import() -> None:
    code = "import sys, nemotron_deploy.loadtest; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"grpc", "tritonclient", "numpy", "yaml", "torch"} & set(modules)
