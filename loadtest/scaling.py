"""How many processes send the requests of a test: as many as were asked for, or as it takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from ..core.errors import UsageError
from .client_clock import StampingSelector
from .own_process import OwnProcess
from .sender import Destination, Sender
from .share import Held
from .workers import COMMAND
from .workers.crew import Crew

BUSY: Final = 0.7
"""Cores that a sending process can keep busy before it disturbs what it measures."""
LEAST_S: Final = 2.0
"""Shorter levels do not say how busy a process is."""

Argv = Sequence[str]


class Senders:
    """Gives the sender of a test, and one of more processes where a level shows that it takes them.

    Raises `UsageError` for a number of processes that is none.

    Args:
        destination: The server.
        selector: Of this process's event loop.
        workers: The command of each worker; None starts as many as are needed on this machine.
        processes: How many are needed; None begins with this process alone and measures.
    """

    def __init__(
        self,
        destination: Destination,
        selector: StampingSelector,
        *,
        workers: Sequence[Argv] | None,
        processes: int | None,
    ) -> None:
        if processes is not None and processes < 1:
            raise UsageError(f"--processes {processes}: must be at least 1")
        self._destination, self._selector = destination, selector
        self._workers, self._processes = workers, processes
        self._present: Sender | None = None

    async def first(self) -> Sender:
        """The sender to begin with. Raises what `own_process.OwnProcess.connected` raises."""
        if self._workers is not None:
            self._present = Crew(self._workers, self._destination)
        elif self._processes is not None and self._processes > 1:
            self._present = Crew([COMMAND] * self._processes, self._destination)
        else:
            self._present = await OwnProcess.connected(self._destination, self._selector)
        return self._present

    def needed(self, held: Held) -> int | None:
        """How many processes are needed, if those that held a level were too busy and nobody said
        how many there are to be."""
        if self._workers is not None or self._processes is not None:
            return None
        processes = enough(held)
        return processes if processes > held.disturbance.processes else None

    async def grow(self, processes: int) -> Sender:
        """A sender of so many processes in place of the present one, which stays if this raises
        what `Sender.check` raises."""
        crew = Crew([COMMAND] * processes, self._destination)
        try:
            await crew.check()
        except BaseException:
            await crew.close()
            raise
        await self.close()
        self._present = crew
        return crew

    async def close(self) -> None:
        """End what sends."""
        if self._present:
            await self._present.close()
            self._present = None


def enough(held: Held) -> int:
    """How many processes a level takes, from how busy those were that held it: twice as many where
    they were too busy, at most one for each core of this machine."""
    seen = held.disturbance
    if held.duration_s < LEAST_S or seen.cpu <= BUSY * seen.processes:
        return seen.processes
    return max(seen.processes, min(2 * seen.processes, cores()))


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))
