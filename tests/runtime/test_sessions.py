"""Exactly one final response in every path."""

import threading

import pytest

from nemotron_deploy.runtime.contract import REQUESTS, TIME_TO_FIRST_TOKEN, Series, series
from nemotron_deploy.runtime.errors import RequestError
from nemotron_deploy.runtime.generation import Failure, GenerationRequest, Step
from nemotron_deploy.runtime.recorder import Recorder
from nemotron_deploy.runtime.sessions import OverloadedError, Sessions


class Channel:
    """Records; counts final responses; can hang up or break."""

    def __init__(self):
        self.sent, self.finals, self.error = [], 0, None
        self.gone = self.broken = False

    def send(self, outputs, final):
        if self.broken:
            raise BrokenPipeError
        self.sent.append(outputs)
        self.finals += final

    def send_error(self, message, failure):
        if self.broken:
            raise BrokenPipeError
        self.error = (message, failure)
        self.finals += 1

    def is_cancelled(self):
        return self.gone


@pytest.fixture
def sessions():
    sessions = Sessions(limit=3)
    yield sessions
    sessions.close()


ID = "an-id-nobody-guesses"


def _open(sessions, request_id="", timeout=None, **fields):
    channel = Channel()
    request = GenerationRequest("Hi", **fields)
    return sessions.open(request_id, request, channel, timeout), channel


def test_streaming_sends_every_token_and_marks_the_last(sessions):
    session, channel = _open(sessions, streaming=True, return_finish_reason=True)
    session.step(Step("a"))
    session.step(Step(""))
    session.step(Step("b", "stop"))
    assert channel.sent == [
        {"text_output": "a"},
        {"text_output": ""},
        {"text_output": "b", "finish_reason": "stop"},
    ]
    assert channel.finals == 1
    assert len(sessions) == 0


def test_not_streaming_sends_one_whole_answer(sessions):
    session, channel = _open(
        sessions, echo_prompt=True, return_stop_reason=True, return_cumulative_logprob=True
    )
    session.step(Step("a"))
    session.step(Step("b", "stop", "\n", -1.5))
    assert channel.sent == [
        {"text_output": "Hiab", "stop_reason": "\n", "cumulative_logprob": -1.5}
    ]


def test_measured_times_are_ordered_and_the_executors_own_win(sessions):
    session, channel = _open(sessions, return_perf_metrics=True)
    session.step(Step("a"))
    session.step(Step("b", "stop", metrics={"first_scheduled_time_ns": 7}))
    sent = channel.sent[0]
    assert sent["arrival_time_ns"] <= sent["first_token_time_ns"] <= sent["last_token_time_ns"]
    assert sent["first_scheduled_time_ns"] == 7


def test_each_request_is_counted_once_by_how_it_ended():
    recorder = Recorder()
    sessions = Sessions(limit=10, recorder=recorder)
    answered, hung_up, broken, failed = (_open(sessions, streaming=True) for _ in range(4))
    answered[0].step(Step("a", tokens=1, metrics={"first_scheduled_time_ns": 0}))
    answered[0].step(Step("b", "length", tokens=2))
    answered[0].cancel()
    hung_up[1].gone = True
    hung_up[0].poll()
    broken[1].broken = True
    broken[0].step(Step("a", tokens=1))
    failed[1].broken = True
    failed[0].fail("no", Failure.INTERNAL)
    _open(sessions)
    sessions.close()
    totals = recorder.totals()
    assert {one.value: totals[one] for one in series(REQUESTS) if totals[one]} == {
        "length": 1, "cancelled": 2, "error": 1, "overloaded": 1,
    }  # fmt: skip
    assert totals[Series("nemo_deploy_output_tokens_total")] == 4
    assert totals[Series(f"{TIME_TO_FIRST_TOKEN.name}_count")] == 2
    assert totals[Series("nemo_deploy_inter_token_seconds_count")] == 1
    assert totals[Series("nemo_deploy_queue_seconds_count")] == 1


@pytest.mark.parametrize("streaming", [True, False])
def test_nothing_follows_the_end(sessions, streaming):
    session, channel = _open(sessions, streaming=streaming)
    session.cancel()
    session.step(Step("late", "stop"))
    session.fail("later", Failure.INTERNAL)
    session.cancel()
    assert session.done
    assert channel.finals == 1
    assert channel.error[1] is Failure.CANCELLED
    assert channel.sent == []


def test_stop_ends_the_request_of_that_id_and_only_it(sessions):
    one, channel_one = _open(sessions, ID + "1")
    two, channel_two = _open(sessions, ID + "2")
    assert sessions.cancel(ID + "1")
    assert not sessions.cancel(ID + "1")
    assert not sessions.cancel(ID + "3")
    assert (one.done, two.done) == (True, False)
    assert (channel_one.finals, channel_two.finals) == (1, 0)


def test_a_live_id_is_refused_and_free_again_afterwards(sessions):
    session, channel = _open(sessions, ID)
    with pytest.raises(RequestError, match="belongs to a live request"):
        _open(sessions, ID)
    channel.gone = True
    _, second = _open(sessions, ID)
    assert session.done
    assert second.finals == 0
    session.cancel()
    assert sessions.cancel(ID), "the first holder's end must not free the second's id"


def test_requests_without_an_id_never_collide(sessions):
    _open(sessions)
    _open(sessions)
    assert len(sessions) == 2


def test_more_than_the_limit_is_refused(sessions):
    for _ in range(3):
        _open(sessions)
    with pytest.raises(OverloadedError, match="already has 3 live requests, its limit"):
        _open(sessions)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_hangs_up_is_noticed(sessions, eventually, streaming):
    session, channel = _open(sessions, streaming=streaming)
    channel.gone = True
    eventually(lambda: session.done)
    assert channel.finals == 1
    assert len(sessions) == 0


def test_a_channel_that_breaks_ends_its_request_only(sessions):
    broken, channel = _open(sessions, streaming=True)
    other, _ = _open(sessions, streaming=True)
    channel.broken = True
    broken.step(Step("a"))
    assert (broken.done, other.done) == (True, False)
    assert len(sessions) == 1


def test_the_watch_outlives_channels_that_break(sessions, eventually):
    """A client is gone, and telling so fails: later clients that leave are noticed all the same."""
    silent, broken = (_open(sessions, streaming=True) for _ in range(2))
    silent[1].is_cancelled = None  # calling it raises
    broken[1].gone = broken[1].broken = True
    eventually(lambda: silent[0].done and broken[0].done)
    session, channel = _open(sessions, streaming=True)
    channel.gone = True
    eventually(lambda: session.done)
    assert channel.finals == 1


def test_stop_ends_a_request_that_is_not_streamed(sessions):
    session, channel = _open(sessions, ID)
    session.step(Step("a"))
    assert sessions.cancel(ID)
    assert channel.error == ("the request was cancelled", Failure.CANCELLED)
    assert (channel.finals, channel.sent) == (1, [])


def test_counts_are_right_when_many_threads_open_and_end():
    sessions = Sessions(limit=1000)

    def work():
        for _ in range(100):
            session, _ = _open(sessions, streaming=True)
            session.step(Step("a", "stop"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sessions) == 0
    sessions.close()


def test_close_fails_what_is_live_and_takes_no_more(sessions):
    _, channel = _open(sessions)
    sessions.close()
    assert channel.error == ("the model is shutting down", Failure.UNAVAILABLE)
    with pytest.raises(OverloadedError, match="shutting down"):
        _open(sessions)


def test_racing_ends_send_one_final(sessions):
    for _ in range(50):
        session, channel = _open(sessions, ID, streaming=True)
        racers = [
            threading.Thread(target=session.step, args=(Step("x", "stop"),)),
            threading.Thread(target=sessions.cancel, args=(ID,)),
            threading.Thread(target=session.fail, args=("no", Failure.INTERNAL)),
        ]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert channel.finals == 1


@pytest.mark.parametrize("streaming", [True, False])
def test_a_deadline_ends_a_request_with_an_error(sessions, eventually, streaming):
    session, channel = _open(sessions, timeout=0.001, streaming=streaming)
    later, _ = _open(sessions, timeout=3600.0, streaming=streaming)
    eventually(lambda: session.done)
    assert channel.error == ("the deadline of the request has passed: 0.001 s", Failure.DEADLINE)
    assert channel.finals == 1
    assert not later.done


def test_an_id_that_can_be_guessed_stops_nothing(sessions):
    """And it is only a label: several requests may have it, as NVIDIA's clients send "1"."""
    first, _ = _open(sessions, "1")
    second, _ = _open(sessions, "1")
    with pytest.raises(RequestError, match="fewer than 16 characters cannot stop"):
        sessions.cancel("1")
    assert not first.done
    assert not second.done


def test_clients_that_trust_each_other_may_use_short_ids():
    sessions = Sessions(limit=3, trusting=True)
    session, _ = _open(sessions, "1")
    with pytest.raises(RequestError, match="belongs to a live request"):
        _open(sessions, "1")
    assert sessions.cancel("1")
    assert session.done
    sessions.close()


@pytest.mark.parametrize(
    ("request_id", "said"),
    [
        ("x" * 1025, "more than 1024 bytes"),
        ("a\nb", "not printable"),
        ("\x1b[31m", "not printable"),
    ],
    ids=["long", "line", "escape"],
)
def test_ids_that_cannot_be_logged_are_refused(sessions, request_id, said):
    with pytest.raises(RequestError, match=said):
        _open(sessions, request_id)
    with pytest.raises(RequestError, match=said):
        sessions.cancel(request_id)
    assert len(sessions) == 0
