"""Looks at a phase of a rollout until it is done, cannot be done, or takes too long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ...core.errors import CheckFailedError
from .causes import causes
from .diagnosis import Diagnosis
from .errors import UnreachableError
from .snapshot import Snapshot
from .stages import Position

EVERY_S: Final = 2.0
"""Seconds between two looks."""

SETTLE_S: Final = 20.0
"""How long a cause that waiting does not heal must last until it ends the watch. Controllers need
some seconds to see a change."""

NODE_S: Final = 60.0
"""The same for a node that is missing: autoscalers take longer to say that they add one."""

_NODE_CAUSES: Final = frozenset({"no-matching-node", "no-resource", "taint"})

UNREACHABLE_S: Final = 60.0
"""How long the API server may be away, for an upgrade of the control plane, say."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the cluster showed. `seconds` are those of each stage so far."""

    position: Position
    seconds: dict[str, float]
    diagnoses: tuple[Diagnosis, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a watch ended, `done`, `stalled` or `timeout`, with its last look."""

    state: str
    look: Look

    def require_done(self, problem: str) -> None:
        """Raise `CheckFailedError` with `problem` and its causes, unless the phase is done."""
        if self.state == "done":
            return
        causes = "; ".join(map(str, self.look.diagnoses)) or (
            f"the stage {self.look.position.stage} takes too long, and no cause shows"
        )
        raise CheckFailedError(f"{problem}: {causes}")


class Watch:
    """One phase: `read` takes a snapshot, `locate` finds the stage in it, `show` gets each look."""

    def __init__(
        self,
        read: Callable[[], Snapshot],
        locate: Callable[[Snapshot], Position],
        show: Callable[[Look], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._read, self._locate, self._show = read, locate, show
        self._clock, self._pause = clock, pause
        self._seconds: dict[str, float] = {}
        self._since: dict[str, float] = {}

    def run(self, timeout: float | None = None) -> Outcome:
        """Look until the phase has ended, at most `timeout` seconds.

        Raises `UnreachableError` where the API server stays away.
        """
        begun = looked = answered = self._clock()
        stage = ""
        while True:
            now = self._clock()
            try:
                snapshot = self._read()
                answered = now
            except UnreachableError:
                if now - answered > UNREACHABLE_S:
                    raise
                self._pause(EVERY_S)
                continue
            look = self._look(snapshot, stage, now - looked)
            stage, looked = look.position.stage, now
            self._show(look)
            if look.position.done:
                return Outcome("done", look)
            if self._is_stalled(look, now):
                return Outcome("stalled", look)
            if timeout is not None and now - begun >= timeout:
                return Outcome("timeout", look)
            self._pause(EVERY_S)

    def _look(self, snapshot: Snapshot, last_stage: str, passed: float) -> Look:
        position = self._locate(snapshot)
        if last_stage:
            self._seconds[last_stage] = self._seconds.get(last_stage, 0.0) + passed
        self._seconds.setdefault(position.stage, 0.0)
        diagnoses = () if position.done else causes(snapshot)
        return Look(position, dict(self._seconds), diagnoses)

    def _is_stalled(self, look: Look, now: float) -> bool:
        """Whether a cause that waiting does not heal has lasted."""
        lasting = {row.cause for row in look.diagnoses if not row.heals}
        self._since = {cause: self._since.get(cause, now) for cause in lasting}
        return any(
            now - since >= (NODE_S if cause in _NODE_CAUSES else SETTLE_S)
            for cause, since in self._since.items()
        )
