"""One step of `gpu_check.sh`: what a GPU says about the INT4 kernels. One process a step.

python -m nemotron_deploy.benchmarks.gpu.check STEP                a step; its result as JSON
python -m nemotron_deploy.benchmarks.gpu.check prepare DIRECTORY   compile what `cubin` loads
python -m nemotron_deploy.benchmarks.gpu.check merge ...           add a step's result to the report
python -m nemotron_deploy.benchmarks.gpu.check table REPORT        one line a step
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from . import correctness, speed, whole
from .problems import SHARED_WIDTH, attempt, cuda

RESULTS: Final = Path(os.environ.get("GPU_CHECK_RESULTS", "."))


def environment() -> dict[str, Any]:
    import importlib.metadata as metadata
    import platform

    found: dict[str, Any] = {"python": platform.python_version(), "packages": {}}
    for name in (
        "torch",
        "triton",
        "numpy",
        "transformers",
        "safetensors",
        "tokenizers",
        "typer",
        "rich",
        "PyYAML",
        "protobuf",
        "jinja2",
        "requests",
        "huggingface-hub",
        "tritonclient",
        "jsonschema",
        "kubernetes-validate",
        "nvidia-modelopt",
        "packaging",
    ):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found["packages"][name] = metadata.version(name)
    asked = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit"
    found["gpu"] = attempt(
        lambda: subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    import torch

    if cuda():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "sm": f"{properties.major}{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
        }
    found["verdict"] = f"{found['gpu']}, torch {torch.__version__}" if cuda() else "no CUDA here"
    found["ok"] = cuda()
    return found


def prepare(directory: str) -> None:
    """Compile the store that `cubin` and `graph` load: Nano's layer, BF16, SM 90."""
    from nemotron_deploy.build.kernels import aot, steps

    aot.build(
        Path(directory) / "sm_90",
        steps.Shape(2688, 1856, 128, 6, 64, routes=128, scale_divisor=7),
        90,
        shared_shapes=[steps.Shape(2688, SHARED_WIDTH, 1, 1, 64, scale_divisor=7)],
        most_tokens=8192,
        workers=min(4, len(os.sched_getaffinity(0))),
        on_compiled=lambda done, of: print(f"\r{done} of {of}", end="", flush=True),
    )
    size = sum(path.stat().st_size for path in Path(directory, "sm_90").iterdir())
    print(f"\n{directory}/sm_90: {size / 1e6:.1f} MB; name .gpu in carry")


def merge(target: str, name: str, status: str, seconds: str, log: str) -> None:
    """Add one step's result to the report, or what its exit status says."""
    whole = json.loads(Path(target).read_text()) if Path(target).exists() else {}
    path = RESULTS / f"{name}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    if not result:
        tail = Path(log).read_text(errors="replace").strip().splitlines()[-3:]
        why = {"124": "ran past its limit", "137": "ran past its limit"}.get(
            status, f"exit {status}"
        )
        result = {"ok": False, "verdict": f"{why}: {' | '.join(tail)[-400:]}"}
    if name == "ncu":
        result["metrics"] = attempt(lambda: speed.ncu_rows(RESULTS))
        if isinstance(result["metrics"], list) and result["metrics"]:
            result["verdict"] = "; ".join(
                f"{r['kernel']} grid {r['grid']}: dram {r.get('dram')}% "
                f"occupancy {r.get('occupancy')}% {r.get('us')} us"
                for r in result["metrics"][:8]
            )
    whole[name] = result | {"exit": int(status), "seconds_in_all": int(seconds)}
    Path(target).write_text(json.dumps(whole, indent=1) + "\n")


def table(target: str) -> None:
    """One line a step."""
    whole = json.loads(Path(target).read_text()) if Path(target).exists() else {}
    print("\nstep          ok   s     what")
    for name, result in whole.items():
        ok, seconds = "yes" if result.get("ok") else "NO", result["seconds_in_all"]
        print(f"{name:13} {ok:4} {seconds:<5} {result['verdict'][:900]}")
        for key, value in (
            list((result.get("wrong") or {}).items())[:6]
            if isinstance(result.get("wrong"), dict)
            else []
        ):
            print(f"{'':24} wrong: {key}: {value}")
    print(f"\n{target}")


STEPS: Final = {
    "environment": environment,
    "jit": correctness.jit,
    "cubin": correctness.cubin,
    "graph": correctness.graph,
    "sanitize": correctness.sanitize,
    "floor": speed.floor,
    "bench": speed.bench,
    "kernels": speed.kernels,
    "sweep": speed.sweep,
    "ncu": speed.ncu,
    "golden": whole.golden,
    "quantize": whole.quantize,
    "quantize_cpu": whole.quantize_cpu,
}


def main() -> None:
    name, *rest = sys.argv[1:]
    if name in (others := {"prepare": prepare, "merge": merge, "table": table}):
        others[name](*rest)
        return
    result = STEPS[name]()
    (RESULTS / f"{name}.json").write_text(json.dumps(result, default=str))
    print(result["verdict"])


if __name__ == "__main__":
    main()
