"""Start a bundle's executor once and check its outputs: fills the caches of this node.

Run as a process of its own, so that what a bundle brings sees a limited environment. Its arguments
are the bundle and the executor. It writes one JSON object a line to standard output: `step`, then
`golden` and `start_s`, or `error`. What the executor prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from .engine import Settings, create_executor
from .errors import StartError
from .startup_check import prove

CLOSE_SECONDS = 10.0


def main() -> None:
    """Do it."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)

        def answer(**fields: Any) -> None:
            answers.write(json.dumps(fields) + "\n")
            answers.flush()

        try:
            _warm_up(Path(sys.argv[1]), sys.argv[2], answer)
        except StartError as error:
            answer(error=str(error))


def _warm_up(bundle: Path, executor: str, answer: Any) -> None:
    begun = time.perf_counter()
    answer(step=f"start the {executor} executor")
    started = create_executor(Settings(bundle, executor, max_active=1, max_waiting=1))
    start_s = time.perf_counter() - begun
    try:
        answer(step="golden")
        answer(golden=prove(bundle, started).record(), start_s=start_s)
    finally:
        started.close(CLOSE_SECONDS)


if __name__ == "__main__":
    main()
