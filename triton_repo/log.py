"""Find out from a tritonserver's log why it did not start."""

from __future__ import annotations

import re
from typing import Final

_MOST_LINES: Final = 4

_LOGGED: Final = re.compile(r'^[EWI]\d{4} \S+ \d+ [\w.]+:\d+\] "?(?P<message>.*?)"?$')

_BIND: Final = re.compile(
    r"failed to start \w+ service: .*Socket '[^']*:(?P<port>\d+)' already in use"
)

_NO_GPU: Final = ("CudaDriverHelper", "NVML", "pinned system memory")
"""Part of messages that every start without a GPU driver logs."""

_UNHEALTHY_STUB: Final = "is not healthy"
"""The stub died, and only its own output says why."""


def refused_ports(log: str) -> list[int]:
    """Ports that the server could not listen on."""
    return [int(match["port"]) for match in _BIND.finditer(log)]


def decisive_lines(log: str) -> list[str]:
    """Why the server did not start, most relevant first, without timestamps and Python stacks."""
    errors, other = list[str](), list[str]()
    for line in log.splitlines():
        match = _LOGGED.match(line)
        if match is None:
            if line.strip() and line[0] not in "|+" and not any(word in line for word in _NO_GPU):
                other.append(line.strip())
        elif line[0] == "E" and not any(word in line for word in _NO_GPU):
            # Triton prints a Python error's line breaks as \n and appends its stack.
            errors.append(match["message"].split("\\n\\nAt:")[0].strip())
    failed = [error for error in errors if error.startswith("failed to load")]
    lines = list(dict.fromkeys(failed or errors))
    if not lines or any(_UNHEALTHY_STUB in line for line in lines):
        lines += other[-3:]
    return lines[:_MOST_LINES]
