"""End the server when this process dies without notice, so that its clients get an error.

Triton does not answer the requests that its Python stub held when it was killed (by the kernel for
memory, say): their clients wait for ever (seen with Triton 2.51; also its issues 5381 and 8448). A
server that ends instead breaks their connections, and is started again by whatever runs it.
"""

from __future__ import annotations

import subprocess
from typing import Final

_SCRIPT: Final = 'read _ || { kill -TERM "$1" && sleep 3 && kill -KILL "$1"; }'
"""Waits for a line; the end of input without one means that the stub is gone."""


class Watchdog:
    """A small process that ends the process `server` once this one is gone, unless dismissed."""

    def __init__(self, server: int) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "watchdog", str(server)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def dismiss(self) -> None:
        """Call it off: the process is about to end in good order."""
        self._process.communicate(b"\n")
