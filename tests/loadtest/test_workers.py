"""Tests that several processes send, against the FAKE server of conftest.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy import __version__, loadtest
from nemotron_deploy.core.errors import BadInputError, CheckFailedError, RefusedError, UsageError
from nemotron_deploy.loadtest import LoadTest, LoadTestReport, Progress, scaling, slo
from nemotron_deploy.loadtest.client_clock import Disturbance
from nemotron_deploy.loadtest.prompts import Work
from nemotron_deploy.loadtest.running import InterruptedTestError
from nemotron_deploy.loadtest.share import Held
from nemotron_deploy.loadtest.workers import COMMAND
from nemotron_deploy.loadtest.workers.messages import PROTOCOL


def prompt(**options: Any) -> str:
    return json.dumps(options)


def config(*prompts: str, **fields: Any) -> LoadTest:
    defaults = {"warmup": 0, "timeout_s": 20.0, "allow_late": True}
    return LoadTest(prompts=prompts or (prompt(),), **{**defaults, **fields})


def run(url: str, test: LoadTest, processes: int = 2, **options: Any) -> LoadTestReport:
    return loadtest.run(url, test, workers=[COMMAND] * processes, **options)


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def python(code: str) -> tuple[str, ...]:
    """The command of a FAKE worker."""
    return (sys.executable, "-c", code)


def test_the_requests_of_a_level_are_divided(
    fake_triton: Callable[..., Any], tmp_path: Path
) -> None:
    server, out = fake_triton(), tmp_path / "samples.jsonl"
    prompts = [prompt(number=number, texts=["a", "b c"]) for number in range(9)]
    test = config(*prompts, concurrencies=(3,), requests=9, count_tokens=lambda text: len(text))
    seen: list[Progress] = []
    report = run(server.url, test, out=out, on_progress=seen.append)
    (only,) = report.runs
    assert (only.requests, only.errors, only.output_tokens) == (9, 0, 9 * 4)
    assert only.client.processes == 2
    assert 0 < only.client.starts_within_ms < 1000
    assert only.latencies["loop_lag"].samples > 0
    assert (report.url, report.model) == (server.url, "mock")
    sent = [request.inputs[0].contents.bytes_contents[0].decode() for request in server.seen]
    assert sorted(sent) == sorted(prompts)
    ids = [request.id for request in server.seen]
    assert len(set(ids)) == 9
    assert len({name.rpartition("-")[0] for name in ids}) == 2, "both processes sent"
    lines = read(out)
    assert {line["id"] for line in lines} == set(ids)
    assert all(len(line["arrivals_s"]) == len(line["waits_s"]) == 2 for line in lines)
    assert [line["intended_s"] for line in lines] == sorted(line["intended_s"] for line in lines)
    assert seen[-1].done == 9


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_arrivals_are_the_same_whatever_the_number_of_processes(
    fake_triton: Callable[..., Any], tmp_path: Path, processes: int
) -> None:
    out = tmp_path / "samples.jsonl"
    test = config(rates=(100.0,), requests=20, seed=3)
    run(fake_triton().url, test, processes, out=out)
    assert [line["intended_s"] for line in read(out)] == [
        pytest.approx(due, abs=1e-6) for due in test.arrivals.schedule(100.0, 20, 3)
    ]


def test_conversations_go_on_in_their_process(fake_triton: Callable[..., Any]) -> None:
    server = fake_triton()
    work = (Work(f"{number} ", 2, follow_up=Work("and", 2), think_s=0.01) for number in range(4))
    test = LoadTest(work=work, schedule=(0.0, 0.0, 0.1, 0.2), warmup=0, allow_late=True)
    (only,) = run(server.url, test).runs
    assert (only.requests, only.errors) == (8, 0)
    sent = {request.inputs[0].contents.bytes_contents[0].decode() for request in server.seen}
    assert sent == {text for n in range(4) for text in (f"{n} ", f"{n} aband")}


def test_a_hopeless_step_of_a_search_ends_early(
    fake_triton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request is ever answered: each step is lost while its requests are outstanding."""
    monkeypatch.setattr("nemotron_deploy.loadtest.search.MOST_STEPS", 2)
    objective = slo.parse("ttft_p90<100ms")
    test = config(
        prompt(hang=True, texts=[]), find_max=True, rates=(50.0,), requests=100, slos=(objective,)
    )
    report = run(fake_triton(hang_after=0).url, test)
    assert report.search is not None
    assert [step.stopped_early for step in report.search.steps] == [True, True]
    assert all(each.duration_s < 15 for each in report.runs)
    assert report.search.best is None


def test_an_interrupt_gives_the_report_so_far(fake_triton: Callable[..., Any]) -> None:
    server = fake_triton()

    def interrupt(progress: Progress) -> None:
        if server.hanging.is_set():
            signal.raise_signal(signal.SIGINT)

    prompts = [prompt(hang=True)] + [prompt(gap_s=0.01)] * 999
    with pytest.raises(InterruptedTestError) as caught:
        test = config(*prompts, concurrencies=(2,), requests=1000)
        run(server.url, test, on_progress=interrupt)
    assert server.cancelled.wait(timeout=10)
    report = caught.value.report
    (only,) = report.runs
    assert report.interrupted
    assert 0 < only.requests < 1000
    assert only.errors == 0


def test_a_dead_server_ends_the_test_once(fake_triton: Callable[..., Any]) -> None:
    prompts = [prompt(gap_s=0.01)] * 6 + [prompt(die=True)]
    server = fake_triton()
    report = run(server.url, config(*prompts, concurrencies=(2,), requests=200))
    assert str(report.aborted).startswith(f"the server at {server.url} stopped answering")
    (only,) = report.runs
    assert not only.complete
    assert 0 < only.requests < 200


@pytest.mark.parametrize(
    ("url", "kind", "problem"),
    [
        ("127.0.0.1:1", BadInputError, "no Triton server answers at grpc://127.0.0.1:1"),
        ("grpc://8.8.8.8:8001", RefusedError, "--yes-this-is-mine"),
        ("nowhere", UsageError, "has no port"),
    ],
)
def test_what_the_workers_find_wrong_is_raised_here(
    url: str, kind: type[Exception], problem: str
) -> None:
    with pytest.raises(kind, match=problem):
        run(url, config())


HELLO = f'{{"message": "hello", "protocol": {PROTOCOL}, "version": "{__version__}"}}'
WAIT = "; import sys; sys.stdin.read()"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (("no-such-command",), "cannot be started with no-such-command"),
        (python("import sys; sys.exit('out of luck')"), "exit code 1.*\n  out of luck"),
        (python(f"print({HELLO!r})"), "ended with exit code 0"),
        (python("print('Welcome!')"), "said what no worker says.*Welcome!"),
        (python('print(\'{"message": "nonsense"}\')'), "said what no worker says"),
        (
            python(f"print({HELLO.replace(__version__, '9.9')!r}, flush=True){WAIT}"),
            f"is of nemo-deploy 9.9 .* this is {__version__}",
        ),
        (
            python(f"print({HELLO.replace(f': {PROTOCOL},', ': 999,')!r}, flush=True){WAIT}"),
            "with protocol 999",
        ),
    ],
    ids=["missing", "fails", "ends", "garbage", "unknown message", "version", "protocol"],
)
def test_a_worker_that_cannot_be_used_is_one_message(
    fake_triton: Callable[..., Any], command: tuple[str, ...], problem: str
) -> None:
    server = fake_triton()
    with pytest.raises(CheckFailedError, match=f"(?s)sending process 2 of 2 .*{problem}"):
        loadtest.run(server.url, config(), workers=[COMMAND, command])
    assert not server.seen


def test_a_worker_that_hangs_is_noticed(
    fake_triton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nemotron_deploy.loadtest.workers.process.MOST_SILENCE_S", 2)
    command = python(f"print({HELLO!r}, flush=True){WAIT}")
    with pytest.raises(CheckFailedError, match="process 1 of 1 has said nothing for 2 s"):
        loadtest.run(fake_triton().url, config(), workers=[command])


def test_a_worker_that_fails_during_a_level_ends_the_test(
    fake_triton: Callable[..., Any], tmp_path: Path
) -> None:
    """What was measured before is reported."""
    pids = tmp_path / "pids"
    noting = python(
        "import os, runpy, sys, pathlib; "
        f"pathlib.Path({str(pids)!r}).write_text(str(os.getpid())); "
        f"sys.argv = ['worker']; runpy.run_module({COMMAND[-1]!r}, run_name='__main__')"
    )

    def kill(progress: Progress) -> None:
        if progress.done >= 10 and pids.exists():
            os.kill(int(pids.read_text()), signal.SIGKILL)
            pids.unlink()

    test = config(prompt(gap_s=0.01), concurrencies=(2,), requests=1000)
    report = loadtest.run(fake_triton().url, test, workers=[COMMAND, noting], on_progress=kill)
    assert report.aborted == "sending process 2 of 2 ended with exit code -9"
    assert not report.ok
    assert 10 <= report.runs[0].requests < 1000


def held(cpu: float, processes: int, seconds: float = 60.0) -> Held:
    disturbance = Disturbance(array("d"), cpu, None, 0.0, processes)
    return Held([], seconds, [], None, disturbance)


@pytest.mark.parametrize(
    ("cpu", "processes", "seconds", "needed"),
    [
        (0.6, 1, 60.0, 1),
        (0.8, 1, 60.0, 2),
        (1.3, 2, 60.0, 2),
        (1.5, 2, 60.0, 4),
        (2.9, 4, 60.0, 6),
        (6.0, 6, 60.0, 6),
        (0.9, 1, 1.0, 1),
    ],
)
def test_busy_processes_are_doubled_up_to_the_cores(
    monkeypatch: pytest.MonkeyPatch, cpu: float, processes: int, seconds: float, needed: int
) -> None:
    monkeypatch.setattr(scaling, "cores", lambda: 6)
    assert scaling.enough(held(cpu, processes, seconds)) == needed


def test_a_level_that_is_too_much_for_one_process_is_held_again_by_two(
    fake_triton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scaling, "cores", lambda: 2)
    monkeypatch.setattr(scaling, "BUSY", 0.0)
    monkeypatch.setattr(scaling, "LEAST_S", 0.0)
    server, out = fake_triton(), tmp_path / "samples.jsonl"
    prompts = [prompt(number=number) for number in range(100)]
    test = config(*prompts, concurrencies=(2, 3), requests=6)
    report = loadtest.run(server.url, test, out=out)
    first, second = report.runs
    assert (first.requests, first.client.processes) == (6, 2)
    assert str(first.client.scaling).startswith("held again by 2 processes: with 1 sending")
    assert (second.client.processes, second.client.scaling) == (2, None)
    assert [line["run"] for line in read(out)] == [0] * 6 + [1] * 6, "of the second try only"
    sent = [request.inputs[0].contents.bytes_contents[0] for request in server.seen]
    assert len(sent) == len(set(sent)) == 6 + 2 + 6 + 6, "with a warm-up for both processes"


def test_a_number_of_processes_that_was_asked_for_is_kept(
    fake_triton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "BUSY", 0.0)
    monkeypatch.setattr(scaling, "LEAST_S", 0.0)
    (only,) = loadtest.run(fake_triton().url, config(processes=1)).runs
    assert (only.client.processes, only.client.scaling) == (1, None)


def test_a_trace_is_not_sent_again(
    fake_triton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "cores", lambda: 2)
    monkeypatch.setattr(scaling, "BUSY", 0.0)
    monkeypatch.setattr(scaling, "LEAST_S", 0.0)
    server = fake_triton()
    work = (Work(prompt(number=number), 2) for number in range(2))
    test = LoadTest(work=work, schedule=(0.0, 0.1), warmup=0, allow_late=True)
    (only,) = loadtest.run(server.url, test).runs
    assert str(only.client.scaling).endswith("a trace is not sent again: use --processes 2")
    assert len(server.seen) == 2


def test_no_number_of_processes() -> None:
    with pytest.raises(UsageError, match="--processes 0"):
        loadtest.run("127.0.0.1:1", config(processes=0))


def test_the_streams_of_workers_end_when_the_coordinator_is_killed(
    fake_triton: Callable[..., Any],
) -> None:
    server = fake_triton()
    code = (
        "from nemotron_deploy import loadtest; "
        f"test = loadtest.LoadTest(prompts=[{prompt(hang=True)!r}], warmup=0, processes=2); "
        f"loadtest.run({server.url!r}, test)"
    )
    with subprocess.Popen(python(code)) as coordinator:
        assert server.hanging.wait(timeout=60)
        coordinator.kill()
    assert server.cancelled.wait(timeout=60)


def test_a_worker_ends_with_its_coordinator() -> None:
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline())["message"] == "hello"
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(timeout=20) == 0
