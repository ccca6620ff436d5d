"""Work in a child that deadline and memory limit really end."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from nemotron_deploy.runtime.isolation import Limits, Worker, WorkError

MODULE = "bounded_work"
WORK = """
import os, time
from nemotron_deploy.runtime.isolation import serve

def handle(request):
    kind, value = request
    if kind == "echo":
        return value
    if kind == "loop":
        while True:
            pass
    if kind == "compute":
        end = time.process_time() + value
        while time.process_time() < end:
            pass
        return value
    if kind == "wait":
        time.sleep(1000)
    if kind == "multiply":
        return len(str(9 ** (9 ** value)))
    if kind == "memory":
        return len(bytearray(value))
    if kind == "crash":
        os.abort()
    raise ValueError("x" * 1000)

serve(handle)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / f"{MODULE}.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return MODULE


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (["loop", 0], "it took more than 0.5 s of processor time"),
        (["multiply", 9], "it took more than 0.5 s of processor time"),
        (["memory", 10**9], "too much memory"),
        (["crash", 0], "or crashed"),
        (["raise", 0], "ValueError: x{300}$"),
    ],
)
def test_a_request_that_fails_is_explained_and_the_next_one_works(
    module: str, request_: list[object], why: str
) -> None:
    before = processor_seconds()
    with Worker(module, Limits(seconds=0.5, memory=200 << 20)) as worker:
        assert worker.ask(["echo", {"a": [1, "é"]}]) == {"a": [1, "é"]}
        with pytest.raises(WorkError, match=why):
            worker.ask(request_)
        assert worker.ask(["echo", 2]) == 2
    assert processor_seconds() - before < 20


def processor_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_time_is_counted_by_request(module: str) -> None:
    with Worker(module, Limits(seconds=0.5, memory=200 << 20)) as worker:
        for _ in range(3):
            assert worker.ask(["compute", 0.2]) == 0.2


def test_a_request_that_waits_without_computing_ends_too(module: str) -> None:
    with (
        Worker(module, Limits(seconds=0.02, memory=200 << 20)) as worker,
        pytest.raises(WorkError, match="it did not end within 2 s"),
    ):
        worker.ask(["wait", 0])
