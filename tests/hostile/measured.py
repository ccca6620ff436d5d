"""Run commands two at a time, each with its time and its own peak memory.

A script of its own, because a process counts what its parent held when it was started: this one is
small. Reads a JSON list of commands from standard input and writes a JSON list of results.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

GIVE_UP_S = 60


def measure(command: list[str]) -> dict[str, object]:
    """Exit code, output, seconds on the clock and of the processor, and peak bytes."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        out.seek(0)
        err.seek(0)
        return {
            "code": process.returncode,
            "out": out.read().decode(errors="replace"),
            "err": err.read().decode(errors="replace"),
            "seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "bytes": usage.ru_maxrss * 1024,
        }


if __name__ == "__main__":
    with ThreadPoolExecutor(2) as pool:
        json.dump(list(pool.map(measure, json.load(sys.stdin))), sys.stdout)
