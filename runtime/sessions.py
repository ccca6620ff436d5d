"""Live requests: each ends with exactly one final response, however it ends.

When a client disconnects, its request ends: over gRPC within `POLL_SECONDS`, over HTTP when Triton
next writes to it. An HTTP request that is not streamed therefore runs to its end or its deadline,
because Triton's HTTP frontend does not check the connection meanwhile
(triton-inference-server/server, issue 7077).

Whoever knows the id of a live request can stop it, and Triton does not tell a model which requests
come from the same client. So only an id that cannot be guessed stops a request: one of
`STOPPABLE_LENGTH` characters or more, such as a UUID. A shorter one is a label, and many live
requests may have it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from .answers import Call
from .contract import (
    ARRIVAL_TIME,
    CUMULATIVE_LOGPROB,
    FINISH_REASON,
    FIRST_SCHEDULED_TIME,
    FIRST_TOKEN_TIME,
    INPUT_COUNT,
    LAST_TOKEN_TIME,
    OUTPUT_COUNT,
    OUTPUT_LOGPROBS,
    REASONING_CONTENT,
    REASONING_COUNT,
    STOP_REASON,
    TEXT_OUTPUT,
    TOOL_CALLS,
)
from .errors import RequestError
from .generation import Failure, GenerationRequest, Step, TokenLogprob
from .recorder import Recorder

STOPPABLE_LENGTH: Final = 16
"""The shortest id, in characters, with which a request can be stopped."""

MAX_ID_BYTES: Final = 1024
"""The longest id of a request."""

POLL_SECONDS: Final = 0.1
"""How often disconnected clients and passed deadlines are looked for. Asking Triton after every
token instead would cost more than everything else that is done for a token."""


class OverloadedError(RuntimeError):
    """The model has as many live requests as it accepts."""


class Channel(Protocol):
    """The connection to one client. Methods may raise when the client or the server is gone."""

    def send(self, outputs: dict[str, Any], final: bool) -> None:
        """Send the output tensors `outputs` (name -> the value of its single element)."""

    def send_error(self, message: str, failure: Failure) -> None:
        """Send an error as the final response."""

    def is_cancelled(self) -> bool:
        """Whether the client disconnected."""


class Session:
    """One live request: the `Sink` that an executor writes to. Thread-safe.

    `request` may be replaced until the first step: a request is live before it is read. It ends
    after `timeout` seconds, if that is not None.
    """

    def __init__(
        self,
        request_id: str,
        request: GenerationRequest,
        channel: Channel,
        on_end: Callable[[Session], None],
        recorder: Recorder,
        timeout: float | None = None,
    ) -> None:
        self.request_id = request_id
        self.request = request
        self._channel = channel
        self._on_end = on_end
        self._recorder = recorder
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._lock = threading.RLock()
        self._done = False
        self._steps: list[Step] = []
        self.prompt = request.prompt
        """What is put before an answer that is to contain its prompt."""
        self._times: dict[str, float] = {ARRIVAL_TIME.name: time.monotonic_ns()}
        self.generating_since: float | None = None
        """When the executor got the request (monotonic seconds)."""

    @property
    def progress_at(self) -> float:
        """When the last step came, in monotonic seconds; 0 before the first one."""
        return self._times.get(LAST_TOKEN_TIME.name, 0) / 1e9

    @property
    def done(self) -> bool:
        """True once the final response was sent, or the client is gone."""
        return self._done

    def step(self, step: Step) -> None:
        """Send one token, or keep it if the request is not streamed."""
        with self._lock:
            if self._done:
                return
            self._measure(step)
            if not self.request.streaming:
                self._steps.append(step)
            if self.request.streaming or step.finish is not None:
                self._respond(lambda: self._send(step), step.finish)

    def fail(self, message: str, failure: Failure) -> None:
        """End the request with an error."""
        with self._lock:
            if not self._done:
                self._respond(lambda: self._channel.send_error(message, failure), failure)

    def cancel(self, reason: str = "the request was cancelled") -> None:
        """End the request at once; the executor abandons it before its next token."""
        self.fail(reason, Failure.CANCELLED)

    def poll(self) -> None:
        """End the request if its client disconnected or its deadline has passed."""
        with self._lock:
            if self._done:
                return
            try:
                gone = self._channel.is_cancelled()
            except Exception:
                gone = True
            if gone:
                self.cancel()
            elif self._deadline is not None and time.monotonic() >= self._deadline:
                self.fail(
                    f"the deadline of the request has passed: {self._timeout:g} s",
                    Failure.DEADLINE,
                )

    def _measure(self, step: Step) -> None:
        """Record when a step came. All times are in ns."""
        times, arrival, now = self._times, self._times[ARRIVAL_TIME.name], time.monotonic_ns()
        if step.metrics and FIRST_SCHEDULED_TIME.name not in times:
            scheduled = step.metrics.get(FIRST_SCHEDULED_TIME.name)
            if scheduled is not None:
                times[FIRST_SCHEDULED_TIME.name] = scheduled
                # An executor that says when a request arrived has a clock of its own.
                since = step.metrics.get(ARRIVAL_TIME.name, arrival)
                self._recorder.queued((scheduled - since) / 1e9)
        last = times.get(LAST_TOKEN_TIME.name)
        if last is None:
            times[FIRST_TOKEN_TIME.name] = now
            self._recorder.first_tokens(step.tokens, (now - arrival) / 1e9)
        else:
            self._recorder.next_tokens(step.tokens, (now - last) / 1e9)
        times[LAST_TOKEN_TIME.name] = now

    def _respond(self, send: Callable[[], None], end: str | Failure | None) -> None:
        """Send; the session is then over with `end`, if there is one, or if the channel failed."""
        self._done = end is not None
        try:
            send()
        except Exception:
            self._done = True
            end = end if isinstance(end, Failure) else Failure.CANCELLED
        if end is not None:
            self._recorder.ended(end)
            self._on_end(self)

    def _send(self, step: Step) -> None:
        streaming = self.request.streaming
        steps = [step] if streaming else self._steps
        text = "" if streaming or not self.request.echo_prompt else self.prompt
        reasoning = ""
        calls: list[Call] = []
        logprobs: list[TokenLogprob] = []
        for part in steps:
            text += part.text
            reasoning += part.reasoning
            calls += part.calls
            logprobs += part.logprobs
        outputs: dict[str, Any] = {TEXT_OUTPUT.name: text}
        if reasoning:
            outputs[REASONING_CONTENT.name] = reasoning
        if calls:
            shape = call_pieces if streaming else whole_calls
            outputs[TOOL_CALLS.name] = json.dumps(shape(calls), ensure_ascii=False)
        if logprobs:
            rows = [logprob_row(row) for row in logprobs]
            outputs[OUTPUT_LOGPROBS.name] = json.dumps({"content": rows}, ensure_ascii=False)
        if step.finish is not None:
            outputs |= self._details(step)
        self._channel.send(outputs, step.finish is not None)

    def _details(self, step: Step) -> dict[str, Any]:
        request, details = self.request, dict[str, Any]()
        if request.return_finish_reason:
            details[FINISH_REASON.name] = step.finish
        if request.return_stop_reason:
            details[STOP_REASON.name] = step.stop_reason
        if request.return_cumulative_logprob and step.cumulative_logprob is not None:
            details[CUMULATIVE_LOGPROB.name] = step.cumulative_logprob
        if request.return_perf_metrics:
            details |= self._times | dict(step.metrics)
        if step.usage is not None:
            details[INPUT_COUNT.name] = step.usage.prompt
            details[OUTPUT_COUNT.name] = step.usage.answer
            if request.conversation is not None:
                details[REASONING_COUNT.name] = step.usage.reasoning
        return details


class Sessions:
    """All live requests, at most `limit`. A thread ends those whose clients disconnected, and those
    whose deadlines have passed. With `trusting`, clients trust each other: every id stops.

    What they measure goes to `recorder`.
    """

    def __init__(
        self, limit: int, recorder: Recorder | None = None, trusting: bool = False
    ) -> None:
        self._limit = limit
        self._recorder = recorder or Recorder()
        self._stoppable_length = 1 if trusting else STOPPABLE_LENGTH
        self._live: dict[int, Session] = {}
        self._by_id: dict[str, Session] = {}
        self._ended_progress_at = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sessions", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._live)

    @property
    def generating(self) -> bool:
        """Whether the executor has requests."""
        return any(session.generating_since is not None for session in self._snapshot())

    @property
    def progress_at(self) -> float:
        """When the last step of any request came, in monotonic seconds; 0 before the first one."""
        steps = [session.progress_at for session in self._snapshot()]
        return max([self._ended_progress_at, *steps])

    def open(
        self,
        request_id: str,
        request: GenerationRequest,
        channel: Channel,
        timeout: float | None = None,
    ) -> Session:
        """Register a request, which may live for `timeout` seconds.

        Raises `OverloadedError`, or `RequestError` for an id that cannot be used, also where a live
        request has the same one: a later `stop` could not tell the two apart.
        """
        require_usable_id(request_id)
        stoppable = len(request_id) >= self._stoppable_length
        holder = self._by_id.get(request_id)
        if holder is not None:
            holder.poll()
        session = Session(request_id, request, channel, self._forget, self._recorder, timeout)
        with self._lock:
            if self._closed.is_set():
                raise OverloadedError("the model is shutting down")
            if len(self._live) >= self._limit:
                raise OverloadedError(
                    f"the model already has {self._limit} live requests, its limit; try again later"
                )
            if request_id in self._by_id:
                raise RequestError(f"the request id {request_id!r} belongs to a live request")
            self._live[id(session)] = session
            if stoppable:
                self._by_id[request_id] = session
        return session

    def cancel(self, request_id: str) -> bool:
        """Cancel the live request with that id; False if there is none.

        Raises `RequestError` for an id that cannot stop a request.
        """
        require_usable_id(request_id)
        if not request_id:
            raise RequestError("stop needs the request id of the request to cancel")
        if len(request_id) < self._stoppable_length:
            raise RequestError(
                f"a request id of fewer than {STOPPABLE_LENGTH} characters cannot stop a request, "
                "because others could guess it; use a random one such as a UUID, or close the "
                "stream"
            )
        with self._lock:
            session = self._by_id.get(request_id)
        if session is None:
            return False
        session.cancel()
        return True

    def close(self) -> None:
        """Accept no more requests and fail the live ones."""
        self._closed.set()
        for session in self._snapshot():
            session.fail("the model is shutting down", Failure.UNAVAILABLE)
        self._thread.join(timeout=1)

    def _forget(self, session: Session) -> None:
        with self._lock:
            self._live.pop(id(session), None)
            self._ended_progress_at = max(self._ended_progress_at, session.progress_at)
            if self._by_id.get(session.request_id) is session:
                del self._by_id[session.request_id]

    def _snapshot(self) -> list[Session]:
        with self._lock:
            return list(self._live.values())

    def _watch(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            for session in self._snapshot():
                session.poll()


def require_usable_id(request_id: str) -> None:
    """Raise `RequestError` for a request id that is too long or has characters that cannot be
    shown: ids are written to logs."""
    if len(request_id.encode(errors="replace")) > MAX_ID_BYTES:
        raise RequestError(f"the request id has more than {MAX_ID_BYTES} bytes")
    if not request_id.isprintable():
        raise RequestError("the request id has characters that are not printable")


def call_pieces(calls: Iterable[Call]) -> list[dict[str, Any]]:
    """Pieces of tool calls in the form of OpenAI's streams."""
    return [
        {
            "index": call.index,
            **({"id": call.id, "type": "function"} if call.id else {}),
            "function": {
                **({"name": call.name} if call.id else {}),
                "arguments": call.arguments,
            },
        }
        for call in calls
    ]


def whole_calls(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's form, from their pieces."""
    return [
        {
            "id": first.id,
            "type": "function",
            "function": {
                "name": first.name,
                "arguments": "".join(c.arguments for c in calls if c.index == first.index),
            },
        }
        for first in calls
        if first.id
    ]


def logprob_row(row: TokenLogprob) -> dict[str, Any]:
    """The log-probabilities at one position in OpenAI's form."""

    def entry(token: str, logprob: float) -> dict[str, Any]:
        # A part of a character has no text, and what bytes it has is not known here.
        whole = "\ufffd" not in token
        return {
            "token": token,
            "logprob": logprob,
            "bytes": list(token.encode()) if whole else None,
        }

    return {
        **entry(row.token, row.logprob),
        "top_logprobs": [entry(token, logprob) for token, logprob in row.top],
    }
