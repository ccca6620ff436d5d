"""What the host does for one launch of the INT4 kernels, with a stand-in for the CUDA driver.

One MoE layer of Nano outside of any graph, as prompts run. The stand-in is a C library whose
cuLaunchKernelEx copies the arguments and returns, so what is timed is ours alone: looking up the
kernels, making addresses, and the call through ctypes. Working memory is allocated on the CPU,
which costs less than torch's CUDA allocator. Prints one JSON line; needs gcc, no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from nemotron_deploy.build.kernels import launch, steps
from nemotron_deploy.build.kernels.driver import CudaDriver, Launch

NANO = steps.Shape(hidden=2688, width=1856, experts=128, top_k=6, group=64)
SM = 90
TOKENS = (1, 16, 512)

LIBRARY = """
#include <stdint.h>
static uint64_t seen[16];
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = seen; return 0; }
int cuCtxPushCurrent_v2(void *context) { return 0; }
int cuCtxPopCurrent_v2(void **context) { return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuModuleLoadData(void **module, const void *image) { return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { return 0; }
int cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
int cuGetErrorName(int status, const char **name) { *name = "none"; return 0; }
int cuLaunchKernelEx(const void *config, void *function, void **params, void **extra) {
    for (int i = 0; i < 4; i++) seen[i] = *(uint64_t *)params[i];
    return 0;
}
"""


class Everything:
    """A store that has every kernel."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver

    def bind(self, step: steps.Step, types: tuple[str, ...]) -> Launch:
        return self._driver.prepare(
            1, step.programs, 32 * step.warps, 0, len(types) + 2, step.overlaps
        )


def operands(tokens: int) -> dict[str, torch.Tensor]:
    """A call's tensors. Nothing reads them, so weights are placeholders."""
    small = torch.zeros(16)
    return {
        **dict.fromkeys(("up", "up_scale", "down", "down_scale"), small),
        "hidden": torch.zeros(tokens, NANO.hidden, dtype=torch.bfloat16),
        "expert_ids": torch.zeros(tokens, NANO.top_k, dtype=torch.int32),
        "expert_weights": torch.zeros(tokens, NANO.top_k),
        "out": torch.zeros(tokens, NANO.hidden, dtype=torch.bfloat16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "cuda.c"), Path(folder, "libcuda.so")
        source.write_text(LIBRARY, encoding="utf-8")
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        launch.use(Everything(CudaDriver(library=str(library))), None)
    rows = []
    for tokens in TOKENS:
        tensors = operands(tokens)
        launches = len(steps.routed(NANO, tokens, SM).steps)
        times = []
        for _ in range(arguments.rounds):
            begun = time.process_time()
            for _ in range(arguments.calls):
                launch.run(steps.routed(NANO, tokens, SM), tensors, 0)
            times.append((time.process_time() - begun) / arguments.calls / launches)
        rows.append(
            {
                "tokens": tokens,
                "launches": launches,
                "us_a_launch": round(1e6 * statistics.median(times), 2),
                "us_a_launch_least": round(1e6 * min(times), 2),
            }
        )
    wanted = {"us_a_launch": {"wanted": 5.0, "most": max(row["us_a_launch"] for row in rows)}}
    print(
        json.dumps({"benchmark": "int4_host", "run_on_a_gpu": False, "rows": rows, "goals": wanted})
    )


if __name__ == "__main__":
    main()
