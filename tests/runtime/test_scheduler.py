"""Turns: fair, bounded, and one failing request harms no other."""

import pytest

from nemotron_deploy.runtime.errors import RequestError
from nemotron_deploy.runtime.generation import Failure, TokenStep
from nemotron_deploy.runtime.scheduler import RoundRobin


@pytest.fixture
def log():
    return []


@pytest.fixture
def scheduler(log):
    """Answers a request with its own text, letter by letter, over and over."""

    def generate(request):
        for count in range(1, request.max_tokens + 1):
            if request.text == "broken":
                raise ZeroDivisionError("no")
            if request.text == "unfit":
                raise RequestError("its grammar has no end")
            letter = request.text[(count - 1) % len(request.text)]
            log.append(letter)
            yield TokenStep((ord(letter),), "length" if count == request.max_tokens else None)

    scheduler = RoundRobin(generate, max_active=2)
    yield scheduler
    scheduler.close(5)


@pytest.fixture
def submit(scheduler, new_sink, token_request):
    def submit(text, max_tokens=32, resumed=False):
        sink = new_sink()
        scheduler.submit(token_request([1], max_tokens, text=text, resumed=resumed), sink)
        return sink

    return submit


def _text(sink):
    return "".join(map(chr, sink.tokens))


def test_requests_take_turns_and_wait_for_a_place(submit, log, eventually):
    sinks = {name: submit(name, 50) for name in "abc"}
    eventually(lambda: all(sink.finish for sink in sinks.values()))
    assert all(_text(sink) == name * 50 for name, sink in sinks.items())
    assert log.index("c") >= 50, "the third started before a place was free"
    both = "".join(log)[log.index("b") : 90]
    assert "aa" not in both and "bb" not in both  # noqa: PT018


def test_a_failing_request_fails_alone(scheduler, submit, eventually):
    broken, unfit, good = submit("broken"), submit("unfit"), submit("ok", 4)
    eventually(lambda: good.done and broken.done and unfit.done)
    assert broken.failure == ("generation failed: ZeroDivisionError: no", Failure.INTERNAL)
    assert unfit.failure == ("its grammar has no end", Failure.INVALID)
    assert _text(good) == "okok"
    assert scheduler.alive


def test_a_cancelled_request_is_dropped(submit, log, eventually):
    endless = submit("x", 10**9)
    eventually(lambda: len(log) > 10)
    endless.cancelled = True
    after = submit("y", 2)
    eventually(lambda: after.done)
    seen = log.count("x")
    last = submit("z", 100)
    eventually(lambda: last.done)
    assert log.count("x") == seen


def test_an_answer_that_continues_comes_before_those_that_wait(submit, log, eventually):
    running = [submit("a", 10**9), submit("b", 10**9)]
    eventually(lambda: "a" in log and "b" in log)
    waiting, continued = submit("c", 1), submit("d", 1, resumed=True)
    for sink in running:
        sink.cancelled = True
    eventually(lambda: waiting.done and continued.done)
    assert log.index("d") < log.index("c")


def test_close_ends_the_worker_amid_work(scheduler, submit, log, eventually):
    submit("x", 10**9)
    eventually(lambda: log)
    scheduler.close(5)
    assert not scheduler.alive
