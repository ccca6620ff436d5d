"""Sends responses from a thread of its own, in the order in which they were made.

Sending one waits until Triton's process has taken it. An executor that did this itself would wait
for every token of every request, and each time find its data gone from the processor's caches.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any, Protocol


class Recipient(Protocol):
    """Whom responses are for."""

    def deliver(self, response: Any, flags: int) -> None:
        """Send a response with Triton's flags. Never raises."""


class Outbox:
    """Responses that are to be sent."""

    def __init__(self) -> None:
        self._posted: SimpleQueue[tuple[Recipient, Any, int] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def post(self, recipient: Recipient, response: Any, flags: int) -> None:
        """Deliver a response after all that were posted before. Does not wait before `close`."""
        self._posted.put((recipient, response, flags))
        if not self._thread.is_alive():
            self._deliver()

    def close(self, timeout: float) -> None:
        """Deliver what was posted, within `timeout` seconds, and stop the thread."""
        self._posted.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while self._deliver():
            pass

    def _deliver(self) -> bool:
        """Deliver the next response. False where there is none any more."""
        posted = self._posted.get()
        if posted is None:
            return False
        recipient, response, flags = posted
        recipient.deliver(response, flags)
        return True
