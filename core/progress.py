"""How a long command tells its caller what it is doing."""

from __future__ import annotations

from typing import Protocol


class Advance(Protocol):
    """Told how many units of a step are done, and maybe what it is at."""

    def __call__(self, done: int, note: str = "", /) -> None: ...


class Progress(Protocol):
    """A listener. `step` begins the named step of `total` units of work (0: unknown) and gives a
    function to be called with how many are done, from any thread; the next `step` ends it."""

    def step(self, name: str, total: int = 0, unit: str = "") -> Advance: ...


class Silent:
    """Progress nobody watches."""

    def step(self, name: str, total: int = 0, unit: str = "") -> Advance:
        """Begin a step and ignore what becomes of it."""
        return lambda done, note="", /: None
