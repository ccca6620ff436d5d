"""How a long verb tells its caller what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """A listener. `step` begins the named step of `total` units of work (0: unknown) and gives a
    function to be called with how many are done; the next `step` ends it."""

    def step(self, name: str, total: int = 0, unit: str = "") -> Callable[[int], None]: ...


class Silent:
    """Progress nobody watches."""

    def step(self, name: str, total: int = 0, unit: str = "") -> Callable[[int], None]:
        """Begin a step and ignore what becomes of it."""
        return lambda _: None
