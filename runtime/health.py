"""Whether the model makes progress: what readiness and liveness say.

Live requests show it by their tokens. A server without requests generates one token now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .generation import Executor, Failure, GenerationRequest, TokenRequest, TokenStep
from .sessions import Sessions

TICK_SECONDS: Final = 0.5
"""How often progress is looked for."""

PROBE_SECONDS: Final = 2.0
"""How long a server without requests rests before it generates a token."""


@dataclass(frozen=True, slots=True)
class Health:
    """The state of the model. `silent` is for how many seconds there was no progress, and
    `requests` how many requests have not ended."""

    ready: bool
    live: bool
    silent: float
    reason: str = ""
    requests: int = 0


class Probe:
    """The sink of a request for one token. Any answer of the executor is progress."""

    def __init__(self) -> None:
        self.answered_at: float | None = None

    @property
    def done(self) -> bool:
        return self.answered_at is not None

    def step(self, step: TokenStep) -> None:
        """The executor generates."""
        self.answered_at = time.monotonic()

    def fail(self, message: str, failure: Failure) -> None:
        """The executor refuses the prompt, or it fails."""
        if failure is Failure.INVALID:
            self.answered_at = time.monotonic()


class Monitor:
    """Watches `executor` and `sessions`, and gives their health to `report` at every tick.

    The model is ready while there was progress in the last `stall` seconds, and live while there
    was some in the last `dead` seconds.
    """

    def __init__(
        self,
        executor: Executor,
        sessions: Sessions,
        report: Callable[[Health], None],
        *,
        stall: float,
        dead: float,
    ) -> None:
        self._executor, self._sessions, self._report = executor, sessions, report
        self._stall, self._dead = stall, dead
        self._probe: Probe | None = None
        self._progress_at = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching: the model is not ready any more."""
        self._closed.set()
        self._thread.join(timeout=1)
        self._report(Health(False, True, 0.0, "the model is being unloaded"))

    def _run(self) -> None:
        self._report(self.look())
        while not self._closed.wait(TICK_SECONDS):
            self._report(self.look())

    def look(self) -> Health:
        """The health now; starts a probe where one is due."""
        probe, now = self._probe, time.monotonic()
        if probe is not None and probe.answered_at is not None:
            self._progress_at = max(self._progress_at, probe.answered_at)
            self._probe = probe = None
        self._progress_at = max(self._progress_at, self._sessions.progress_at)
        silent = now - self._progress_at
        if probe is None and silent >= PROBE_SECONDS and not self._sessions.generating:
            self._probe = Probe()
            request = GenerationRequest(max_tokens=1, top_k=1, seed=0)
            self._executor.submit(TokenRequest((0,), 1, frozenset(), "", request), self._probe)
        requests, live = len(self._sessions), silent < self._dead
        if not self._executor.healthy:
            return Health(False, False, silent, "the executor has stopped", requests)
        if silent >= self._stall:
            reason = f"no token was generated for {silent:.0f} s"
            return Health(False, live, silent, reason, requests)
        return Health(True, True, silent, requests=requests)
