"""The served model without its server: requests in, answers out, through one executor.

Everything that is the same for every executor and every server is here or in what this uses.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from .generation import Executor, Failure, GenerationRequest, Load, RequestError
from .prompts import Prompts, prompt_limit
from .recorder import Recorder
from .sessions import Channel, OverloadedError, Session, Sessions
from .stage import TextStage
from .vocabulary import read_sampling_defaults

PROMPT_THREADS: Final = 2
"""Threads that render and tokenize prompts: a long prompt leaves one for the others."""


class Service:
    """Serves requests with `executor`, at most `limit` at a time.

    `checkpoint` is the directory with tokenizer, chat template and generation configuration.
    Raises `StartError` for one that cannot be used.
    """

    def __init__(self, executor: Executor, checkpoint: Path, limit: int) -> None:
        self._executor = executor
        self._prompts = Prompts(
            checkpoint,
            executor.vocabulary,
            read_sampling_defaults(checkpoint),
            executor.context,
        )
        self.recorder = Recorder()
        """What is counted and measured. Add requests that do not get as far as `submit`."""
        self._sessions = Sessions(limit, self.recorder)
        self._threads = ThreadPoolExecutor(PROMPT_THREADS, thread_name_prefix="prompts")
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

    def submit(self, request_id: str, request: GenerationRequest, channel: Channel) -> None:
        """Answer a request through `channel`, from other threads.

        Raises `RequestError` for a request that this executor cannot answer, and `OverloadedError`.
        """
        if not self._executor.healthy:
            raise OverloadedError("the executor has stopped; restart the server")
        if request.guide is not None and not self._executor.can_guide:
            raise RequestError(
                f"{request.guide.source}: this executor cannot guide the answer to a form; "
                "leave it out, or describe the form in the prompt"
            )
        session = self._sessions.open(request_id, request, channel)
        self._threads.submit(self._start, session)

    def cancel(self, request_id: str) -> bool:
        """Cancel the live request with that id; False if there is none."""
        return self._sessions.cancel(request_id)

    def close(self, timeout: float) -> None:
        """Fail live requests and stop the executor within `timeout` seconds."""
        self._sessions.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._executor.close(timeout / 2)
        self._prompts.close(timeout / 2)

    def _start(self, session: Session) -> None:
        """Make the prompt and begin to generate."""
        if session.done:
            return
        try:
            prepared = self._prompts.prepare(session.request)
            session.prompt = prepared.text
            self.recorder.prompt(len(prepared.prompt))
            executor = self._executor
            TextStage(prepared, executor.answers, executor.submit, session).start()
        except RequestError as error:
            session.fail(str(error), Failure.INVALID)
        except Exception as error:
            session.fail(f"{type(error).__name__}: {error}", Failure.INTERNAL)
