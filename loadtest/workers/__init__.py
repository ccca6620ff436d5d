"""Several processes that send the requests of one test: the coordinator starts workers and talks to
each over its standard input and output, in JSON lines."""

from __future__ import annotations

import sys
from typing import Final

COMMAND: Final = (sys.executable, "-m", __name__)
"""Starts a worker on this machine."""
