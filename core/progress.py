"""How a long command reports its progress."""

from __future__ import annotations

import logging
import time
from typing import Final, Protocol

LOG_EVERY_S: Final = 5.0
"""Seconds between two lines of one step in the log."""

_log = logging.getLogger(__name__)


class Advance(Protocol):
    """Takes how many units of a step are done and, optionally, the item at hand; or several lines,
    which describe the whole step so far."""

    def __call__(self, done: int, note: str = "", /) -> None: ...


class Progress(Protocol):
    """A listener. `step` begins the named step of `total` units of work (0: unknown) and returns a
    function to be called with the number done, from any thread; the next `step` ends it."""

    def step(self, name: str, total: int = 0, unit: str = "") -> Advance: ...


class Silent:
    """Shows nothing."""

    def step(self, name: str, total: int = 0, unit: str = "") -> Advance:
        """Begin a step and ignore its progress."""
        return lambda done, note="", /: None


class Logged:
    """Passes progress on to another listener, and notes each step and some of its advance in the
    log: steps at `level`, advance for debugging."""

    def __init__(self, listener: Progress, level: int) -> None:
        self._listener, self._level = listener, level

    def step(self, name: str, total: int = 0, unit: str = "") -> Advance:
        """Begin a step."""
        advance = self._listener.step(name, total, unit)
        size = f" ({total} {unit})" if total else ""
        _log.log(self._level, "%s%s", name, size)
        logged = time.monotonic()

        def logging_advance(done: int, note: str = "", /) -> None:
            nonlocal logged
            advance(done, note)
            if time.monotonic() - logged >= LOG_EVERY_S:
                logged = time.monotonic()
                _log.debug("%s: %d of %d %s  %s", name, done, total, unit, note)

        return logging_advance
