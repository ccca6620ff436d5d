"""What counts as progress, and what follows when there is none."""

import time

import pytest

from nemotron_deploy.runtime.generation import Failure, GenerationRequest, Step, TokenStep
from nemotron_deploy.runtime.health import PROBE_SECONDS, Health, Monitor
from nemotron_deploy.runtime.sessions import Sessions

STALL, DEAD = 6.0, 120.0


class Executor:
    """Takes requests; answers them when told to."""

    def __init__(self):
        self.healthy, self.sinks = True, []

    def submit(self, request, sink):
        self.sinks.append(sink)


class Channel:
    def send(self, outputs, final):
        pass

    def send_error(self, message, failure):
        pass

    def is_cancelled(self):
        return False


class Clock:
    """A time that passes when told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def monotonic_ns(self):
        return int(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for name in ("monotonic", "monotonic_ns"):
        monkeypatch.setattr(time, name, getattr(clock, name))
    return clock


@pytest.fixture
def sessions():
    sessions = Sessions(4)
    yield sessions
    sessions.close()


@pytest.fixture
def executor():
    return Executor()


@pytest.fixture
def monitor(executor, sessions, clock):
    monitor = Monitor(executor, sessions, lambda health: None, stall=STALL, dead=DEAD)
    monitor.close()  # its thread: the tests look by themselves
    return monitor


def test_a_model_that_is_unloaded_is_not_ready_and_says_so(executor, sessions):
    reports = list[Health]()
    Monitor(executor, sessions, reports.append, stall=3600, dead=3600).close()
    assert reports[-1] == Health(False, True, 0.0, "the model is being unloaded")
    assert all(report.ready for report in reports[:-1])


def test_the_health_counts_live_requests(monitor, sessions, clock):
    assert monitor.look().requests == 0
    _generating(sessions, clock)
    assert monitor.look().requests == 1


def _generating(sessions, clock):
    session = sessions.open("", GenerationRequest(streaming=True), Channel())
    session.generating_since = clock.now
    return session


def test_an_idle_server_generates_a_token_now_and_then(monitor, executor, clock):
    assert monitor.look() == Health(True, True, 0.0)
    assert executor.sinks == []
    for count in range(1, 4):
        clock.now += PROBE_SECONDS
        assert monitor.look().ready
        assert len(executor.sinks) == count
        executor.sinks[-1].step(TokenStep((1,), "length"))
        assert monitor.look().silent == 0.0


def test_a_probe_without_an_answer_ends_readiness_then_liveness(monitor, executor, clock):
    clock.now += PROBE_SECONDS
    monitor.look()
    clock.now += STALL
    health = monitor.look()
    assert (health.ready, health.live) == (False, True)
    assert health.reason == "no token was generated for 8 s"
    assert len(executor.sinks) == 1, "one probe at a time"
    clock.now += DEAD
    assert not monitor.look().live
    executor.sinks[0].step(TokenStep((1,), "length"))
    assert monitor.look().ready


@pytest.mark.parametrize(("failure", "ready"), [(Failure.INVALID, True), (Failure.INTERNAL, False)])
def test_an_executor_that_refuses_the_probe_works_and_one_that_fails_does_not(
    monitor, executor, clock, failure, ready
):
    clock.now += STALL
    monitor.look()
    executor.sinks[0].fail("no", failure)
    assert monitor.look().ready is ready


def test_tokens_of_any_request_are_progress(monitor, executor, sessions, clock):
    stuck, other = _generating(sessions, clock), _generating(sessions, clock)
    for _ in range(10):
        clock.now += STALL / 2
        other.step(Step("x"))
        assert monitor.look().ready
    assert executor.sinks == [], "a busy server needs no probe"
    assert not stuck.done
    clock.now += STALL
    assert not monitor.look().ready


def test_progress_of_requests_that_have_ended_counts(monitor, sessions, clock):
    session = _generating(sessions, clock)
    _generating(sessions, clock)
    clock.now += STALL
    session.step(Step("x", "stop"))
    assert monitor.look().ready


def test_a_dead_executor_is_not_ready(monitor, executor):
    executor.healthy = False
    assert monitor.look() == Health(False, False, 0.0, "the executor has stopped")
