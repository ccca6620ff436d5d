"""How much this process itself disturbs what it measures: the lag of its event loop, how long a
response can have waited here before it was read, and the load of the machine."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_LAG_EVERY_S: Final = 0.01
_IDLE_S: Final = 20e-6
"""A poll that takes longer than this has waited: nothing was ready before."""
_MS: Final = 1e-3
_MOST_FILES: Final = 1024
"""Descriptors that `select` can wait for are below this."""
_TURNS: Final = 3
"""Turns of the event loop that a response needs from the socket to its reader."""


class StampingSelector(selectors.DefaultSelector):
    """A selector that remembers since when what is being handled can have been ready.

    What a poll reports was not ready when the poll before it returned. If the poll had to wait, it
    became ready only when the poll returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self._returned: deque[float] = deque([time.perf_counter()], maxlen=_TURNS)

    def select(self, timeout: float | None = None) -> Any:
        """Poll, and note when."""
        began = time.perf_counter()
        events = self._select(timeout)
        now = time.perf_counter()
        if now - began > _IDLE_S:
            self._returned.clear()
        self._returned.append(now)
        return events

    def _select(self, timeout: float | None) -> Any:
        """Epoll rounds timeouts up to whole milliseconds, and requests would be sent late by that
        much. So it waits for whole milliseconds only, and `select`, which knows microseconds, waits
        for the rest and for the epoll object."""
        if timeout is None or timeout <= 0 or self.fileno() >= _MOST_FILES:
            return super().select(timeout)
        if timeout >= _MS:
            return super().select((timeout // _MS - 0.5) * _MS)
        select.select([self], [], [], timeout)
        return super().select(0)

    @property
    def ready_since(self) -> float:
        """The earliest moment at which what is handled now can have been ready."""
        return self._returned[0]


def new_event_loop(selector: StampingSelector) -> Callable[[], asyncio.AbstractEventLoop]:
    """A factory for `asyncio.Runner`: an event loop that polls with `selector`."""
    return lambda: asyncio.SelectorEventLoop(selector)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """The client during one level: this process, or all that send.

    Attributes:
        lags: Seconds by which a timer of the event loop was late, a hundred a second.
        cpu: Cores that the client kept busy.
        machine: Share of all cores that was busy, None where the system does not say; that of the
            busiest machine.
        load: Processes that wanted to run at the end (the one-minute average of the system).
        processes: How many sent requests.
        starts_within_s: By how many seconds their starts can differ.
    """

    lags: array[float]
    cpu: float
    machine: float | None
    load: float
    processes: int = 1
    starts_within_s: float = 0.0


class Monitor:
    """Watches this process; `async with` it for a level, then read `disturbance`."""

    def __init__(self) -> None:
        self._lags: array[float] = array("d")
        self._began = self._cpu = 0.0
        self._ticks = _machine_ticks()
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Monitor:
        self._began, self._cpu = time.perf_counter(), time.process_time()
        self._ticks = _machine_ticks()
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._watching:
            self._watching.cancel()

    @property
    def disturbance(self) -> Disturbance:
        """What was seen so far."""
        duration = max(time.perf_counter() - self._began, 1e-9)
        return Disturbance(
            self._lags,
            cpu=(time.process_time() - self._cpu) / duration,
            machine=_busy_share(self._ticks, _machine_ticks()),
            load=os.getloadavg()[0],
        )

    async def _watch(self) -> None:
        due = time.perf_counter()
        while True:
            due = max(due + _LAG_EVERY_S, time.perf_counter())
            await asyncio.sleep(due - time.perf_counter())
            self._lags.append(max(0.0, time.perf_counter() - due))


def _machine_ticks() -> tuple[int, int] | None:
    """Ticks of all cores since the start of the system: all, and those that were idle."""
    try:
        with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123 (no file of ours)
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return sum(ticks), sum(ticks[3:5])


def _busy_share(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    if before is None or after is None or after[0] <= before[0]:
        return None
    return 1 - (after[1] - before[1]) / (after[0] - before[0])
