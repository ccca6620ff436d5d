"""The served model without its server: requests in, answers out, through one executor.

Everything that is the same for every executor and every server is here or in what this uses.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from .answers import Start
from .contract import IGNORE_EOS
from .errors import RequestError
from .generation import Executor, Failure, GenerationRequest, Load
from .guides import Guide, grammar, guided_start
from .health import Health, Monitor
from .prompts import Prompts, prompt_limit
from .recorder import Recorder
from .sessions import Channel, OverloadedError, Session, Sessions
from .stage import Prepared, TextStage
from .vocabulary import read_sampling_defaults

PROMPT_THREADS: Final = 2
"""Threads that read, render and tokenize prompts."""

LONG_BYTES: Final = 256 * 1024
"""Requests with more bytes than this are prepared by a thread of their own, one after another, so
that they keep no other request waiting."""

LONG_WAITING: Final = 8
"""How many of them may wait; each is held in memory."""


class Service:
    """Serves requests with `executor`, at most `limit` at a time.

    With `trusting`, clients may stop each other's requests (see `sessions`). `checkpoint` is the
    directory with tokenizer, chat template and generation configuration.
    Raises `StartError` for one that cannot be used.
    """

    def __init__(
        self, executor: Executor, checkpoint: Path, limit: int, trusting: bool = False
    ) -> None:
        self._executor = executor
        self._prompts = Prompts(
            checkpoint,
            executor.vocabulary,
            read_sampling_defaults(checkpoint),
            executor.context,
        )
        self.recorder = Recorder()
        """What is counted and measured. Add requests that do not get as far as `submit`."""
        self._sessions = Sessions(limit, self.recorder, trusting)
        self._monitor: Monitor | None = None
        self._threads = ThreadPoolExecutor(PROMPT_THREADS, thread_name_prefix="prompts")
        self._long_thread = ThreadPoolExecutor(1, thread_name_prefix="long-prompts")
        self._long_places = threading.Semaphore(LONG_WAITING + 1)
        self._guide_thread = ThreadPoolExecutor(1, thread_name_prefix="guides")
        self.prompt_limit = prompt_limit(executor.context)
        """How many bytes a prompt may have."""

    @property
    def ready(self) -> bool:
        """Whether a request submitted now would be served."""
        return self._executor.healthy

    @property
    def live(self) -> int:
        """Requests that were accepted and have not ended."""
        return len(self._sessions)

    @property
    def load(self) -> Load:
        """What the executor is occupied with. May take a tenth of a second."""
        return self._executor.load

    def watch(self, report: Callable[[Health], None], *, stall: float, dead: float) -> None:
        """Report the health from now on (see `Monitor`)."""
        self._monitor = Monitor(self._executor, self._sessions, report, stall=stall, dead=dead)

    def submit(
        self,
        request_id: str,
        read: Callable[[], GenerationRequest],
        channel: Channel,
        *,
        size: int = 0,
        timeout: float | None = None,
    ) -> None:
        """Answer the request that `read` returns through `channel`, from other threads.

        `size` is how many bytes it has, and `timeout` how many seconds it may live. `read` may
        raise `RequestError`. Raises `RequestError` for the request's id, and `OverloadedError`.
        """
        if not self._executor.healthy:
            raise OverloadedError("the executor has stopped; restart the server")
        session = self._sessions.open(request_id, GenerationRequest(), channel, timeout)
        if size <= LONG_BYTES:
            self._threads.submit(self._start, session, read)
        elif self._long_places.acquire(blocking=False):
            self._long_thread.submit(self._start_long, session, read)
        else:
            session.fail(
                f"{LONG_WAITING} requests of more than {LONG_BYTES} bytes are waiting already, the "
                "limit; try again later",
                Failure.UNAVAILABLE,
            )

    def cancel(self, request_id: str) -> bool:
        """Cancel the live request with that id; False if there is none."""
        return self._sessions.cancel(request_id)

    def close(self, timeout: float) -> None:
        """Fail live requests and stop the executor within `timeout` seconds."""
        if self._monitor is not None:
            self._monitor.close()
        self._sessions.close()
        for threads in (self._threads, self._long_thread, self._guide_thread):
            threads.shutdown(wait=False, cancel_futures=True)
        self._executor.close(timeout / 2)
        self._prompts.close(timeout / 2)

    def _start_long(self, session: Session, read: Callable[[], GenerationRequest]) -> None:
        try:
            self._start(session, read)
        finally:
            self._long_places.release()

    def _start(self, session: Session, read: Callable[[], GenerationRequest]) -> None:
        """Read the request, make the prompt and begin to generate."""
        with _failing(session):
            if session.done:
                return
            session.request = self._answerable(read())
            prepared = self._prompts.prepare(session.request)
            if session.request.guide is None:
                self._generate(session, prepared)
            else:  # another thread, so that guides keep no other requests waiting
                self._guide_thread.submit(self._guide, session, prepared)

    def _guide(self, session: Session, prepared: Prepared) -> None:
        """Compile the guide of a request and begin to generate."""
        with _failing(session):
            if session.done:
                return
            guide = session.request.guide
            assert guide is not None, "only requests with a guide come here"
            start = guided_start(prepared.start, prepared.text)
            content = None
            if session.request.thinking_budget is not None and start is not Start.CONTENT:
                content = self._compiled(guide, Start.CONTENT)
            prepared = replace(prepared, guide=self._compiled(guide, start), content_guide=content)
            self._generate(session, prepared)

    def _compiled(self, guide: Guide, start: Start) -> object:
        text = grammar(guide, start, self._executor.vocabulary.markers)
        try:
            return self._executor.compile_guide(text)
        except RequestError as error:
            raise RequestError(f"{guide.source} cannot be used: {error}") from error

    def _generate(self, session: Session, prepared: Prepared) -> None:
        session.prompt = prepared.text
        self.recorder.prompt(len(prepared.prompt))
        session.generating_since = time.monotonic()
        executor = self._executor
        TextStage(prepared, executor.answers, executor.submit, session).start()

    def _answerable(self, request: GenerationRequest) -> GenerationRequest:
        """The request. Raises `RequestError` for one that this executor cannot answer."""
        guide = request.guide
        if guide is not None and not self._executor.can_guide:
            raise RequestError(
                f"{guide.source}: this executor cannot guide the answer to a form; "
                "leave it out, or describe the form in the prompt"
            )
        if guide is not None and request.ignore_eos:
            raise RequestError(
                f"{guide.source} and {IGNORE_EOS.name} exclude each other: an answer that has the "
                "demanded form has to end"
            )
        return request


@contextmanager
def _failing(session: Session) -> Iterator[None]:
    """End the session with the error that is raised within."""
    try:
        yield
    except RequestError as error:
        session.fail(str(error), Failure.INVALID)
    except Exception as error:
        session.fail(f"{type(error).__name__}: {error}", Failure.INTERNAL)
