"""Round-robin scheduling: every active request gets one token in each round."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .errors import RequestError
from .generation import Failure, TokenRequest, TokenSink, TokenStep


@dataclass(slots=True)
class _Job:
    request: TokenRequest
    sink: TokenSink
    steps: Iterator[TokenStep] | None = None


class RoundRobin:
    """Runs `generate(request)` for at most `max_active` requests at a time; others are queued.

    One thread does all the work. The first step of a request processes its whole prompt. A request
    that raises does not affect the others.
    """

    def __init__(
        self, generate: Callable[[TokenRequest], Iterator[TokenStep]], max_active: int
    ) -> None:
        self._generate = generate
        self._max_active = max_active
        self._waiting: deque[_Job] = deque()
        self._active: list[_Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the worker thread runs."""
        return self._thread.is_alive() and not self._closed

    @property
    def running(self) -> int:
        """Requests that are active."""
        return len(self._active)

    def submit(self, request: TokenRequest, sink: TokenSink) -> None:
        """Queue a request; one that continues an answer comes before others."""
        with self._changed:
            enqueue = self._waiting.appendleft if request.resumed else self._waiting.append
            enqueue(_Job(request, sink))
            self._changed.notify()

    def close(self, timeout: float) -> None:
        """Abandon all requests; wait up to `timeout` seconds for the current step."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while self._admit():
            self._active = [job for job in self._active if self._turn(job)]

    def _admit(self) -> bool:
        """Activate queued requests, waiting while there are none at all. False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._active or self._waiting)
            while self._waiting and len(self._active) < self._max_active:
                self._active.append(self._waiting.popleft())
            return not self._closed

    def _turn(self, job: _Job) -> bool:
        """Generate one token of `job`. False when it has ended."""
        if job.sink.done:
            return False
        try:
            if job.steps is None:
                job.steps = self._generate(job.request)
            step = next(job.steps)
        except RequestError as error:
            job.sink.fail(str(error), Failure.INVALID)
            return False
        except Exception as error:
            job.sink.fail(f"generation failed: {type(error).__name__}: {error}", Failure.INTERNAL)
            return False
        job.sink.step(step)
        return step.finish is None
