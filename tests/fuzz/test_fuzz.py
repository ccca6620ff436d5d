"""A short coverage-guided run of every fuzz target; `make fuzz` is the long one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="has wheels for some platforms only")

FUZZ = Path(__file__).parent / "fuzz.py"
SECONDS = os.environ.get("FUZZ_SECONDS", "5")


# Through a small process: the fuzzer's limit on memory counts what its parent had when it started.
LAUNCH = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


@pytest.mark.parametrize("target", ["header", "index", "config"])
def test_no_input_breaks_the_contract(target: str, tmp_path: Path) -> None:
    fuzzer = [sys.executable, str(FUZZ), target, SECONDS, str(tmp_path / target)]
    command = [sys.executable, "-c", LAUNCH, *fuzzer]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    covered = [int(count) for count in re.findall(r"cov: (\d+)", done.stderr)]
    assert covered[-1] > covered[0] > 0, "the fuzzer sees no coverage, so nothing guides it"
