"""`make gpu-check` without a GPU: its steps run on small layers, and none stops the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "gpu_check.sh"
STEPS = ("environment", "jit", "cubin", "graph", "floor", "kernels", "sweep", "sanitize")


def test_every_step_runs_by_itself_and_the_report_says_what_needs_a_gpu(tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHON": sys.executable,
        "OUT": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": "",
        "GPU_CHECK_INTERPRET": "1",
        "GPU_CHECK_PATIENCE": "20",
        "GPU_CHECK_SECONDS": "3000",
    }
    done = subprocess.run(
        ["bash", SCRIPT, *STEPS, "unheard-of"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "no step unheard-of" in done.stderr
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert list(report) == [name for name in STEPS if name != "sanitize"], "no sanitizer here"
    assert {name for name, result in report.items() if result["ok"]} == {"jit", "sweep"}
    assert report["jit"]["wrong"] == {}
    assert "NaN" in report["jit"]["observed"]["? a NaN comes out as"]
    assert report["cubin"]["verdict"] == "needs CUDA"
    for name in report:
        assert f"\n{name}" in done.stdout
