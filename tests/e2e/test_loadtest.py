"""Load tests of a real tritonserver around the mock model of tests/loadtest/mock_model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemotron_deploy import loadtest
from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.loadtest import LoadTest, Progress, slo
from nemotron_deploy.tests.e2e.scripted_bundle import scripted_bundle
from nemotron_deploy.triton_repo import local
from nemotron_deploy.triton_repo.openai import Endpoint

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(local.unavailable() is not None, reason=str(local.unavailable())),
]

TEMPLATE = Path(__file__).parents[1] / "runtime" / "nemotron.jinja"
MOCK = Path(__file__).parents[1] / "loadtest" / "mock_model"


def start() -> Iterator[local.LocalServer]:
    """A tritonserver that serves the mock (which knows no executors)."""
    with local.LocalServer(MOCK, executor="reference") as server:
        server.wait_ready()
        yield server


server = pytest.fixture(scope="module")(start)
own_server = pytest.fixture(start)


def prompt(**options: object) -> str:
    return json.dumps(options)


@pytest.mark.parametrize("style", ["delta", "cumulative"])
def test_latencies_agree_with_the_schedule(server: local.LocalServer, style: str) -> None:
    """Nothing comes before it was sent, and the parts make the whole; how much later it comes is
    for the machine to say, which may be busy."""
    test = LoadTest(
        prompts=[prompt(first_ms=100, gap_ms=25, style=style)],
        concurrencies=(1, 8),
        requests=8,
        max_tokens=12,
        slos=(slo.parse("ttft_p50<100s"),),
        count_tokens=lambda text: len(text.split()),
    )
    report = loadtest.run(server.grpc_url, test)
    assert report.model == "mock"
    assert report.to_json()["slo"]["best"] == 8
    for run in report.runs:
        assert (run.requests, run.errors, run.output_tokens) == (8, 0, 8 * 12)
        first, gap, whole = (run.latencies[name].at("p50") for name in ("ttft", "itl", "e2e"))
        assert first is not None
        assert gap is not None
        assert whole is not None
        assert first >= 100
        assert 0 < gap < whole - first
        assert 100 + 11 * 25 <= whole <= 1000 * run.duration_s
        assert run.latencies["itl"].samples == 8 * 11
        assert run.output_tokens_per_s == pytest.approx(8 * 12 / run.duration_s)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.LocalServer]:
    """The model that is really served, with its OpenAI endpoint; it thinks first, in a chat."""
    answer = {"when": "", "pieces": ["Hm. ", "</think>", *["step "] * 6], "pace_ms": 10}
    bundle = scripted_bundle(tmp_path_factory.mktemp("bundle"), [answer], 4, TEMPLATE)
    with local.LocalServer(
        bundle.repository, executor="scripted", script=bundle.script, openai=Endpoint("tiny")
    ) as started:
        started.wait_ready()
        yield started


@pytest.mark.parametrize("protocol", ["grpc", "generate-stream", "chat", "completions"])
def test_the_served_model_counts_its_tokens_in_every_protocol(
    scripted: local.LocalServer, protocol: str
) -> None:
    urls = {"grpc": scripted.grpc_url, "generate-stream": scripted.http_url}
    url = urls.get(protocol, str(scripted.openai_url))
    test = LoadTest(
        prompts=["Count."], protocol=protocol, concurrencies=(3,), requests=9, max_tokens=40
    )
    report = loadtest.run(url, test)
    (run,) = report.runs
    assert (report.model, report.token_counting) == ("tiny", "server")
    assert (run.requests, run.errors) == (9, 0), run.error_messages
    assert run.prompt_tokens
    assert run.output_tokens % 9 == 0
    assert run.output_tokens >= 9 * 8
    assert run.short_outputs.count == 9, "fewer than 40"
    assert run.latencies["e2e"].at("min") is not None
    if protocol == "chat":
        first, content = run.latencies["ttft"].at("p50"), run.latencies["content"].at("p50")
        assert first is not None
        assert content is not None
        assert content > first, "the reasoning comes first"
    if protocol == "grpc":
        assert run.latencies["queue"].samples == run.measured


def test_the_mock_is_measured_over_http(server: local.LocalServer) -> None:
    prompts = [prompt(first_ms=50, gap_ms=10), prompt(fail_at=2)]
    (run,) = loadtest.run(server.http_url, LoadTest(prompts=prompts, requests=6, max_tokens=5)).runs
    assert run.error_messages == {"mock failure: told to fail": 3}
    first = run.latencies["ttft"].at("min")
    assert first is not None
    assert first >= 50


def test_a_closed_loop_keeps_so_many_requests_going(server: local.LocalServer) -> None:
    """The mock answers none before eight are there."""
    test = LoadTest(
        prompts=[prompt(together=8)], concurrencies=(8,), requests=16, warmup=0, timeout_s=150.0
    )
    (run,) = loadtest.run(server.grpc_url, test).runs
    assert (run.requests, run.errors) == (16, 0)


def test_an_open_loop_does_not_wait_for_answers(server: local.LocalServer) -> None:
    """The mock answers none before all forty are there."""
    test = LoadTest(
        prompts=[prompt(together=40)],
        rates=(40.0,),
        requests=40,
        max_tokens=4,
        warmup=0,
        timeout_s=150.0,
    )
    (run,) = loadtest.run(server.grpc_url, test).runs
    assert (run.requests, run.errors) == (40, 0)
    assert run.duration_s >= max(test.arrivals.schedule(40.0, 40, test.seed))


def test_failed_requests_are_counted_apart(server: local.LocalServer) -> None:
    prompts = [prompt(), prompt(fail_at=0), prompt(fail_at=3)]
    (run,) = loadtest.run(server.grpc_url, LoadTest(prompts=prompts, requests=9)).runs
    assert run.error_messages == {"mock failure: told to fail": 6}
    assert run.latencies["ttft"].samples == 3


def test_an_unknown_model_is_refused_with_the_ready_ones(server: local.LocalServer) -> None:
    with pytest.raises(BadInputError, match="ready models: mock"):
        loadtest.run(server.grpc_url, LoadTest(prompts=["x"], model="other"))


def test_the_http_port_is_not_taken_for_a_dead_server(server: local.LocalServer) -> None:
    with pytest.raises(BadInputError, match="8000 is HTTP"):
        loadtest.run(f"127.0.0.1:{server.http_port}", LoadTest(prompts=["x"]))


def test_a_killed_server_ends_the_test(own_server: local.LocalServer) -> None:
    def kill(progress: Progress) -> None:
        if progress.done == 4:
            os.kill(own_server.pid, signal.SIGKILL)

    test = LoadTest(
        prompts=[prompt(first_ms=50, gap_ms=50)], concurrencies=(4, 8), requests=1000, max_tokens=20
    )
    report = loadtest.run(own_server.grpc_url, test, on_progress=kill)
    assert not report.ok
    assert own_server.grpc_url in str(report.aborted)
    (run,) = report.runs
    assert not run.complete
    assert run.requests - run.errors >= 4
    assert 0 < run.errors < 20


def test_a_model_process_that_dies_does_not_hang_the_test(own_server: local.LocalServer) -> None:
    prompts = [prompt(), prompt(die_at=2)]
    test = LoadTest(prompts=prompts, requests=2, warmup=0, timeout_s=3.0)
    (run,) = loadtest.run(own_server.grpc_url, test).runs
    assert run.requests == 2
    assert run.errors >= 1
    os.kill(own_server.pid, signal.SIGKILL)  # it would drain the lost request until its grace ends
