"""Kill `quantize` with SIGKILL at random points, run it again, and compare the bytes.

Run as a script in a process of its own: it imports everything once, computes nothing, and forks a
child for each run, which thus starts at once. Kills fall at random times, and at random points
between two operations on files (Python's audit events), where most of what can go wrong goes wrong.

    python killing.py CHECKPOINT DIRECTORY KILLS SEED
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

from nemotron_deploy.api import quality
from nemotron_deploy.api.quantize import quantize_source
from nemotron_deploy.api.quantize_options import options_for
from nemotron_deploy.core.files import PARTIAL, sha256
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.quantize import quality_page, stream  # noqa: F401  imported before forking

setattr(quality, "RUN_BELOW", 0)  # noqa: B010  a constant elsewhere; # what the model answers is tested elsewhere; here it would only take time

FILE_EVENTS = ("open", "os.", "shutil.", "tempfile.", "fcntl.")


def run(checkpoint: str, out: Path, kill_at: int | None = None) -> int:
    """Quantize in a forked child, which kills itself at file event `kill_at`; gives its pid."""
    pid = os.fork()
    if pid:
        return pid
    if kill_at is not None:
        seen = 0

        def listen(event: str, _: object) -> None:
            nonlocal seen
            if event.startswith(FILE_EVENTS):
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(listen)
    try:
        quantize_source(checkpoint, options_for(CONSERVATIVE["int4"], smooth=False), out)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def digests(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): sha256(p) for p in sorted(out.rglob("*")) if p.is_file()}


def main(checkpoint: str, directory: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    started = time.monotonic()
    assert os.waitpid(run(checkpoint, directory / "whole"), 0)[1] == 0
    duration = time.monotonic() - started
    expected = digests(directory / "whole")
    seen: Counter[str] = Counter()
    out, completed = directory / "out", 0
    while seen["killed"] < kills:
        timed = seen["runs"] % 2 == 0
        pid = run(checkpoint, out, None if timed else chance.randint(1, 120))
        if timed:
            time.sleep(chance.uniform(0, duration * 1.1))
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        seen["runs"] += 1
        seen["killed"] += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
        partial = directory / f"{PARTIAL}out"
        if partial.exists():
            finished = len(list((partial / "content").glob("*.safetensors")))
            seen[f"left with {finished} finished shards"] += 1
        if not out.exists() and chance.random() < 0.1:  # go on from what was left, mostly
            assert os.waitpid(run(checkpoint, out), 0)[1] == 0
        if out.exists():
            assert digests(out) == expected, "a directory appeared that is not the whole result"
            shutil.rmtree(out)
            left = {path.name for path in directory.iterdir()} - {"whole"}
            assert left <= {partial.name}, left
            completed += 1
    assert os.waitpid(run(checkpoint, out), 0)[1] == 0
    assert digests(out) == expected
    print(json.dumps({**seen, "completed": completed + 1, "files": len(expected)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
