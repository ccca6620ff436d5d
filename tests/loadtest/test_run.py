"""Whole tests against the FAKE server of conftest.py."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy import loadtest
from nemotron_deploy.core.errors import BadInputError, RefusedError, UsageError
from nemotron_deploy.loadtest import LoadTest, Progress, slo
from nemotron_deploy.loadtest.prompts import Work
from nemotron_deploy.loadtest.running import InterruptedTestError


def prompt(**options: Any) -> str:
    return json.dumps(options)


def config(*prompts: str, **fields: Any) -> LoadTest:
    """Figures of a server that answers at once are disturbed easily."""
    defaults = {"warmup": 0, "timeout_s": 10.0, "allow_late": True}
    return LoadTest(prompts=prompts or (prompt(),), **{**defaults, **fields})


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
    test = config(rates=(50.0,), requests=10)
    (run,) = loadtest.run(fake_triton().url, test).runs
    assert (run.requests, run.errors) == (10, 0)
    assert run.to_json()["rate"] == 50.0
    assert run.duration_s >= max(test.arrivals.schedule(50.0, 10, test.seed))


def test_an_open_loop_counts_from_when_a_request_was_due(fake_triton: Callable[..., Any]) -> None:
    def stall(progress: Progress) -> None:
        if progress.done == 1:
            time.sleep(0.6)  # most requests fall due meanwhile and are sent late

    test = config(rates=(100.0,), requests=20)
    (run,) = loadtest.run(fake_triton().url, test, on_progress=stall).runs
    median = run.latencies["ttft"].at("p50")
    assert median is not None
    assert median > 200
    assert not run.client.valid, "this process stalled, not the server"
    assert any("requests were sent late" in reason for reason in run.client.reasons)


def test_streams_are_spread_over_connections(fake_triton: Callable[..., Any]) -> None:
    server = fake_triton()
    loadtest.run(server.url, config(prompt(gap_s=0.05), concurrencies=(3,), requests=3))
    assert len(set(server.peers)) == 3


def test_a_full_connection_takes_no_more_streams(
    fake_triton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nemotron_deploy.loadtest.targets.triton_server.CONNECTIONS", 1)
    monkeypatch.setattr("nemotron_deploy.loadtest.targets.triton_server.STREAMS_PER_CONNECTION", 2)
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
    assert (run.requests, run.errors, run.latencies["ttft"].samples) == (8, 6, 2)


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


def test_an_interrupt_ends_the_streams_and_gives_the_report_so_far(
    fake_triton: Callable[..., Any], tmp_path: Path
) -> None:
    server = fake_triton()

    def interrupt(progress: Progress) -> None:
        if server.hanging.is_set() and progress.done >= 50:  # its first text has long been read
            signal.raise_signal(signal.SIGINT)

    prompts = [prompt(hang=True)] + [prompt()] * 999
    test = config(*prompts, concurrencies=(2,), requests=1000)
    out = tmp_path / "samples.jsonl"
    with pytest.raises(KeyboardInterrupt) as caught:
        loadtest.run(server.url, test, on_progress=interrupt, out=out)
    assert server.cancelled.wait(timeout=10)
    assert isinstance(caught.value, InterruptedTestError)
    report = caught.value.report
    (run,) = report.runs
    assert report.interrupted
    assert not report.ok
    assert not run.complete
    assert 0 < run.requests < 1000
    assert run.errors == 0, "the user, not the server, ended the other one"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    unfinished = [line for line in lines if line["error_kind"] == "unfinished"]
    assert len(lines) == run.requests + len(unfinished)
    assert any(line["arrivals_s"] for line in unfinished)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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


def test_the_room_is_cheap_to_import() -> None:
    code = "import sys, nemotron_deploy.loadtest; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"grpc", "tritonclient", "numpy", "yaml", "torch", "httpx"} & set(modules)


def test_every_sample_is_written(fake_triton: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    prompts = (prompt(texts=["", "a", "b"], gap_s=0.01), prompt(error="boom"))
    test = config(*prompts, concurrencies=(1, 2), requests=4)
    report = loadtest.run(fake_triton().url, test, out=out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["run"], line["concurrency"]) for line in lines] == [(0, 1)] * 4 + [(1, 2)] * 4
    assert {line["schema"] for line in lines} == {1}
    good = [line for line in lines if line["error"] is None]
    assert len(good) == 4
    for line in good:
        first, second = line["arrivals_s"]
        assert line["intended_s"] <= line["sent_s"] <= line["first_byte_s"] < first < second
        assert second <= line["ended_s"]
        assert (line["output_tokens"], line["arrival_tokens"]) == (2, [1, 1])
        assert len(line["waits_s"]) == 2
    ttft = [1000 * (line["arrivals_s"][0] - line["intended_s"]) for line in good if not line["run"]]
    assert report.runs[0].latencies["ttft"].at("max") == pytest.approx(max(ttft), abs=0.01)
    assert {line["error_kind"] for line in lines if line["error"]} == {"server error"}


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_sent(
    fake_triton: Callable[..., Any], tmp_path: Path
) -> None:
    server = fake_triton()
    with pytest.raises(BadInputError, match="cannot be written"):
        loadtest.run(server.url, config(), out=tmp_path / "none" / "samples.jsonl")
    assert not server.seen


def test_tokens_that_the_server_counts_are_believed(fake_triton: Callable[..., Any]) -> None:
    test = config(prompt(texts=["a b", "c d"], tokens=4), requests=3)
    report = loadtest.run(fake_triton().url, test)
    assert report.token_counting == "server"
    assert report.runs[0].output_tokens == 12
    assert report.runs[0].latencies["itl"].samples == 3 * 2


def test_the_clients_of_a_level_start_one_after_the_other(
    fake_triton: Callable[..., Any], tmp_path: Path
) -> None:
    """They are spread over the time that a request of the warm-up took."""
    out = tmp_path / "samples.jsonl"
    test = config(prompt(gap_s=0.1), concurrencies=(4,), requests=16, warmup=1)
    (run,) = loadtest.run(fake_triton().url, test, out=out).runs
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    starts = sorted(line["intended_s"] for line in lines)[:4]
    assert all(start >= 0.05 * index for index, start in enumerate(starts))
    assert run.steady_s is not None
    start, end = run.steady_s
    measured = [line for line in lines if start < line["intended_s"] <= end]
    assert run.measured == len(measured) == sum(line["measured"] for line in lines)
    assert 4 <= run.measured <= 12, "without the first request of each client"


def test_a_level_without_a_steady_state_is_measured_whole(fake_triton: Callable[..., Any]) -> None:
    test = config(prompt(gap_s=0.01), concurrencies=(4,), requests=4)
    (run,) = loadtest.run(fake_triton().url, test).runs
    assert (run.steady_s, run.measured) == (None, 4)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("grpc://8.8.8.8:8001", "--yes-this-is-mine"),
        ("grpc://[2001:4860:4860::8888]:8001", "--yes-this-is-mine"),
        ("grpc://169.254.169.254:80", "link-local"),
        ("grpc://[fe80::1]:80", "link-local"),
        ("grpc://[::ffff:169.254.169.254]:80", "link-local"),
    ],
)
def test_other_peoples_servers_are_refused(url: str, problem: str) -> None:
    with pytest.raises(RefusedError, match=problem):
        loadtest.run(url, config())


def test_a_link_local_address_is_refused_even_if_it_is_ones_own() -> None:
    with pytest.raises(RefusedError, match="link-local"):
        loadtest.run("grpc://169.254.169.254:80", config(yours=True))


def test_a_name_without_an_address() -> None:
    with pytest.raises(BadInputError, match="no address is known"):
        loadtest.run("grpc://nowhere.invalid:8001", config())


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"error": "boom"}, "server error"),
        ({"cut": True}, "closed"),
        ({"texts": []}, "empty"),
        ({"hang": True}, "timeout"),
        ({"finals": 2}, "garbage"),
        ({"raw": "YWI="}, "garbage"),
    ],
)
def test_faults_are_classified(
    fake_triton: Callable[..., Any], options: dict[str, Any], kind: str
) -> None:
    prompts = (prompt(), prompt(**options))
    report = loadtest.run(fake_triton().url, config(*prompts, requests=4, timeout_s=0.5))
    (run,) = report.runs
    assert {name: errors.count for name, errors in run.error_kinds.items()} == {kind: 2}
    assert not report.ok, "more than 1 % failed"


def test_the_highest_rate_of_a_server_is_found(
    fake_triton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers one request at a time, in 5 ms or more: never more than 200 a second."""
    monkeypatch.setattr("nemotron_deploy.loadtest.rate_steps.LEAST_STEP_S", 0.3)
    server = fake_triton(serial=True)
    objective = slo.parse("ttft_p90<60ms")
    test = config(
        prompt(texts=["a"], gap_s=0.005), find_max=True, requests=30, warmup=1, slos=(objective,)
    )
    report = loadtest.run(server.url, test)
    assert report.search is not None
    steps = report.search.steps
    assert [step.rate for step in steps] == [run.level.rate for run in report.runs]
    assert any(step.met for step in steps)
    assert any(not step.met for step in steps)
    document = report.to_json()["slo"]
    assert document["best"] == report.search.best
    if report.best is not None:  # on a machine that is busy now and then, none may repeat itself
        assert report.best.level.load == document["best"] < 400
        assert report.best.meets((objective,))
    spans = [run.requests / step.rate for run, step in zip(report.runs, steps, strict=True)]
    assert all(
        span > 0.29 for span, step in zip(spans, steps, strict=True) if not step.stopped_early
    )
    early = [run for run, step in zip(report.runs, steps, strict=True) if step.stopped_early]
    assert not any(run.complete for run in early)


def test_a_search_needs_something_to_search_for() -> None:
    with pytest.raises(UsageError, match="--find-max"):
        config(find_max=True)


def test_a_schedule_is_kept_to(fake_triton: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    server = fake_triton()
    work = (Work(prompt(), tokens) for tokens in (1, 2, 3))
    test = LoadTest(work=work, schedule=(0.0, 0.05, 0.3), warmup=0, allow_late=True)
    (run,) = loadtest.run(server.url, test, out=out).runs
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["intended_s"] for line in lines] == [0.0, 0.05, 0.3]
    assert [line["max_tokens"] for line in lines] == [1, 2, 3]
    assert all(line["sent_s"] >= line["intended_s"] for line in lines)
    assert run.requests == 3


def test_each_rate_is_a_level(fake_triton: Callable[..., Any]) -> None:
    report = loadtest.run(fake_triton().url, config(rates=(50.0, 100.0), requests=5))
    assert [run.level.rate for run in report.runs] == [50.0, 100.0]
