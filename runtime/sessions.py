"""Live requests: each ends with exactly one final response, however it ends.

When a client disconnects, its request ends: over gRPC within `POLL_SECONDS`, over HTTP when Triton
next writes to it. An HTTP request that is not streamed therefore runs to its end, because Triton's
HTTP frontend does not check the connection meanwhile (triton-inference-server/server, issue 7077).
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
from .generation import Failure, GenerationRequest, RequestError, Step, TokenLogprob
from .recorder import Recorder

POLL_SECONDS: Final = 0.1
"""How often disconnected clients are looked for. Asking Triton after every token instead would cost
more than everything else that is done for a token."""


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
    """One live request: the `Sink` that an executor writes to. Thread-safe."""

    def __init__(
        self,
        request_id: str,
        request: GenerationRequest,
        channel: Channel,
        on_end: Callable[[Session], None],
        recorder: Recorder,
    ) -> None:
        self.request_id = request_id
        self.request = request
        self._channel = channel
        self._on_end = on_end
        self._recorder = recorder
        self._lock = threading.RLock()
        self._done = False
        self._steps: list[Step] = []
        self.prompt = request.prompt
        """What is put before an answer that is to contain its prompt."""
        self._times: dict[str, float] = {ARRIVAL_TIME.name: time.monotonic_ns()}

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
        """End the request if its client disconnected."""
        with self._lock:
            if self._done:
                return
            try:
                gone = self._channel.is_cancelled()
            except Exception:
                gone = True
            if gone:
                self.cancel()

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
        text = "".join(part.text for part in steps)
        if self.request.echo_prompt and not streaming:
            text = self.prompt + text
        outputs: dict[str, Any] = {TEXT_OUTPUT.name: text}
        if reasoning := "".join(part.reasoning for part in steps):
            outputs[REASONING_CONTENT.name] = reasoning
        if calls := [call for part in steps for call in part.calls]:
            shape = call_pieces if streaming else whole_calls
            outputs[TOOL_CALLS.name] = json.dumps(shape(calls), ensure_ascii=False)
        if logprobs := [row for part in steps for row in part.logprobs]:
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
    """All live requests, at most `limit`. A thread ends those whose clients disconnected.

    What they measure goes to `recorder`.
    """

    def __init__(self, limit: int, recorder: Recorder | None = None) -> None:
        self._limit = limit
        self._recorder = recorder or Recorder()
        self._live: dict[int, Session] = {}
        self._by_id: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sessions", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._live)

    def open(self, request_id: str, request: GenerationRequest, channel: Channel) -> Session:
        """Register a request.

        Raises `OverloadedError`, or `RequestError` where a live request has the same, non-empty id:
        a later `stop` could not tell the two apart.
        """
        holder = self._by_id.get(request_id) if request_id else None
        if holder is not None:
            holder.poll()
        session = Session(request_id, request, channel, self._forget, self._recorder)
        with self._lock:
            if self._closed.is_set():
                raise OverloadedError("the model is shutting down")
            if len(self._live) >= self._limit:
                raise OverloadedError(
                    f"the model already has {self._limit} live requests, its limit"
                )
            if request_id and request_id in self._by_id:
                raise RequestError(f"the request id {request_id!r} belongs to a live request")
            self._live[id(session)] = session
            if request_id:
                self._by_id[request_id] = session
        return session

    def cancel(self, request_id: str) -> bool:
        """Cancel the live request with that id; False if there is none."""
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
            if self._by_id.get(session.request_id) is session:
                del self._by_id[session.request_id]

    def _snapshot(self) -> list[Session]:
        with self._lock:
            return list(self._live.values())

    def _watch(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            for session in self._snapshot():
                session.poll()


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
