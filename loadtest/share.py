"""What one process sends of a level, and what came of it.

All times are in seconds after the level's start, unless they say otherwise.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from .client_clock import Disturbance
from .prompts import Work
from .sample import Sample


@dataclass(frozen=True, slots=True)
class Share:
    """Requests of a level that one process sends: all of them, or its part.

    Attributes:
        work: What to send, in order.
        due: When each of `work` is due in an open loop.
        starts: When each client of a closed loop begins to send; the clients take the `work` in
            turn. Empty for an open loop.
    """

    work: tuple[Work, ...]
    due: tuple[float, ...] = ()
    starts: tuple[float, ...] = ()

    def part(self, index: int, parts: int) -> Share:
        """The `index`-th of so many `parts`: every client, and every request of an open loop, is in
        exactly one, and each client has as many requests as before."""
        clients = len(self.starts) or parts
        mine = [number for number in range(len(self.work)) if number % clients % parts == index]
        return Share(
            tuple(self.work[number] for number in mine),
            tuple(self.due[number] for number in mine) if self.due else (),
            self.starts[index::parts],
        )


@dataclass(frozen=True, slots=True)
class InFlight:
    """A request that has not ended: for how many seconds it has been due, and whether any text has
    come."""

    waited_s: float
    silent: bool


@dataclass(frozen=True, slots=True)
class Held:
    """What one process, or all together, made of a level.

    Attributes:
        samples: One for each request that was sent.
        duration_s: From the level's start to the end of its last request.
        first_ended: When each client of a closed loop ended its first request.
        exhausted: When the first client found no further work; None if none did.
        disturbance: How the process itself did.
    """

    samples: list[Sample]
    duration_s: float
    first_ended: list[float]
    exhausted: float | None
    disturbance: Disturbance


def merged(parts: Sequence[Held], *, cpu: float, starts_within_s: float) -> Held:
    """The whole level out of what several processes held of it. `cpu` is how many cores the process
    kept busy that holds them together."""
    lags: array[float] = array("d")
    for part in parts:
        lags.extend(part.disturbance.lags)
    busy = [part.disturbance.machine for part in parts if part.disturbance.machine is not None]
    exhausted = [part.exhausted for part in parts if part.exhausted is not None]
    return Held(
        sorted((sample for part in parts for sample in part.samples), key=lambda each: each.due),
        max((part.duration_s for part in parts), default=0.0),
        [moment for part in parts for moment in part.first_ended],
        min(exhausted, default=None),
        Disturbance(
            lags,
            cpu=cpu + math.fsum(part.disturbance.cpu for part in parts),
            machine=max(busy, default=None),
            load=max((part.disturbance.load for part in parts), default=0.0),
            processes=len(parts),
            starts_within_s=starts_within_s,
        ),
    )
