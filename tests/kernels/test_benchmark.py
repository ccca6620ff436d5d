"""The GPU benchmark, as far as a machine without a GPU can run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "int4_kernels.py"
SMALL = ["--hidden", "128", "--width", "192", "--experts", "8", "--top-k", "2", "--rounds", "2"]


def run(*arguments: str, interpret: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, BENCHMARK, *SMALL, *arguments],
        env=os.environ | {"TRITON_INTERPRET": interpret, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("interpret", "ran"), [("0", "reference"), ("1", "kernels")])
def test_it_runs_on_a_cpu_and_says_that_it_does(interpret: str, ran: str) -> None:
    done = run("--tokens", "1", "5", interpret=interpret)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert (report["device"], report["ran"]) == ("cpu", ran)
    assert not report["stored_cubins"]
    assert "goals" not in report
    assert [row["tokens"] for row in report["rows"]] == [1, 5]
    for row in report["rows"]:
        assert 0 < row["error"] < 0.01
        assert row["int4_us"] > 0
        assert row["bf16_error"] < 0.02


def test_nothing_is_recorded_without_a_gpu() -> None:
    done = run("--tokens", "1", "--record", interpret="0")
    assert done.returncode == 2
    assert "--record is for a run on a GPU" in done.stderr
