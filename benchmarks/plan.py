"""How quickly questions about the real model are answered, cold, and with how much memory.

Prints one JSON line: per command the median of wall times in seconds, its ratio to
`python -c pass` in the same run, the largest memory of the process in MB, and what is wanted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "--help": ["-m", "nemotron_deploy", "--help"],
    "plan": ["-m", "nemotron_deploy", "plan", "--gpu", "h100", "--quant", "int4"],
    "plan --matrix": ["-m", "nemotron_deploy", "plan", "--matrix"],
    "inspect": ["-m", "nemotron_deploy", "inspect"],
}

WANTED: dict[str, dict[str, float]] = {
    "--help": {"seconds": 0.15},
    "plan": {"seconds": 0.3, "peak_mb": 60.0},
    "plan --matrix": {"seconds": 0.5},
}


def once(arguments: list[str]) -> tuple[float, float]:
    """Wall seconds and peak memory in MB of one run. Modules are compiled once, as for users."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    if status:
        raise SystemExit(f"{arguments} ended with status {status}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for number in range(runs + 1):  # in turn, so that a slow moment hits all; the first warms up
        for name, arguments in COMMANDS.items():
            result = once(arguments)
            if number:
                measured[name].append(result)
    medians = {name: statistics.median(s for s, _ in rows) for name, rows in measured.items()}
    empty = medians["python -c pass"]
    report = {
        name: {
            "seconds": round(medians[name], 4),
            "ratio": round(medians[name] / empty, 2),
            "peak_mb": round(max(mb for _, mb in rows), 1),
            "wanted": WANTED.get(name, {}),
        }
        for name, rows in measured.items()
    }
    print(json.dumps({"benchmark": "plan", "runs": runs, "commands": report}))


if __name__ == "__main__":
    main()
