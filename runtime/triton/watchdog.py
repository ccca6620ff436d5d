"""End the server if this process is killed, so that its clients get an error.

When its Python stub is killed (for using too much memory, say), Triton never answers the stub's
requests, and their clients wait forever (seen with Triton 2.51; also its issues 5381 and 8448). If
the server ends, the connections break, and whatever runs the server starts it again.
"""

from __future__ import annotations

import subprocess
from typing import Final

_SCRIPT: Final = 'read _ || { kill -TERM "$1" && sleep 3 && kill -KILL "$1"; }'
"""Waits for a line; the end of input without a line means that the stub is gone."""


class Watchdog:
    """A small process that ends the process `server` when this one is gone, unless dismissed."""

    def __init__(self, server: int) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "watchdog", str(server)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def dismiss(self) -> None:
        """Stop watching: the process is about to end normally."""
        self._process.communicate(b"\n")
