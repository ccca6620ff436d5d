"""The event loop of an engine with an asynchronous interface, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from ..generation import TokenSink

POLL_SECONDS: Final = 0.05
"""How often requests that have ended are looked for."""

Result = TypeVar("Result")


class EventLoop:
    """Runs coroutines in the thread `name`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._loop.is_closed()

    @property
    def tasks(self) -> int:
        """How many of the started coroutines have not ended."""
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine and return at once."""
        self._loop.call_soon_threadsafe(self._start, work)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self, timeout: float) -> None:
        """Cancel what was started and end the thread; give up after `timeout` seconds."""
        if self.closed:
            return
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop)
        self._thread.join(timeout)
        if not self._thread.is_alive():
            self._loop.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.stop()


async def until_done(sink: TokenSink) -> None:
    """Wait until the request was answered, cancelled or abandoned, whether it generates or not."""
    while not sink.done:
        await asyncio.sleep(POLL_SECONDS)
