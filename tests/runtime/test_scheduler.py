"""Turns: fair, bounded, and one failing request harms no other."""

import pytest

from nemotron_deploy.runtime.generation import (
    Failure,
    GenerationRequest,
    RequestError,
    Step,
)
from nemotron_deploy.runtime.scheduler import RoundRobin


@pytest.fixture
def log():
    return []


@pytest.fixture
def scheduler(log):
    def generate(request):
        if request.prompt == "invalid":
            raise RequestError("too long")
        for count in range(1, request.max_tokens + 1):
            if request.prompt == "broken":
                raise ZeroDivisionError("no")
            log.append(request.prompt)
            yield Step(request.prompt, "length" if count == request.max_tokens else None)

    scheduler = RoundRobin(generate, max_active=2)
    yield scheduler
    scheduler.close(5)


def test_requests_take_turns_and_wait_for_a_place(scheduler, log, new_sink, eventually):
    sinks = {name: new_sink() for name in "abc"}
    for name, sink in sinks.items():
        scheduler.submit(GenerationRequest(name, max_tokens=50), sink)
    eventually(lambda: all(sink.finish for sink in sinks.values()))
    assert all(sink.text == name * 50 for name, sink in sinks.items())
    assert log.index("c") >= 50, "the third started before a place was free"
    both = "".join(log)[log.index("b") : 90]
    assert "aa" not in both and "bb" not in both  # noqa: PT018


def test_a_failing_request_fails_alone(scheduler, new_sink, eventually):
    good, broken, invalid = new_sink(), new_sink(), new_sink()
    scheduler.submit(GenerationRequest("broken"), broken)
    scheduler.submit(GenerationRequest("invalid"), invalid)
    scheduler.submit(GenerationRequest("ok", max_tokens=3), good)
    eventually(lambda: good.done and broken.done and invalid.done)
    assert broken.failure == ("generation failed: ZeroDivisionError: no", Failure.INTERNAL)
    assert invalid.failure == ("too long", Failure.INVALID)
    assert good.text == "okokok"
    assert scheduler.alive


def test_a_cancelled_request_is_dropped(scheduler, log, new_sink, eventually):
    endless = new_sink()
    scheduler.submit(GenerationRequest("x", max_tokens=10**9), endless)
    eventually(lambda: len(log) > 10)
    endless.cancelled = True
    after = new_sink()
    scheduler.submit(GenerationRequest("y", max_tokens=2), after)
    eventually(lambda: after.done)
    seen = log.count("x")
    last = new_sink()
    scheduler.submit(GenerationRequest("z", max_tokens=100), last)
    eventually(lambda: last.done)
    assert log.count("x") == seen


def test_close_ends_the_worker_amid_work(scheduler, log, new_sink, eventually):
    scheduler.submit(GenerationRequest("x", max_tokens=10**9), new_sink())
    eventually(lambda: log)
    scheduler.close(5)
    assert not scheduler.alive
