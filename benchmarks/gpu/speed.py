"""How fast the kernels are on this GPU, and how fast anything could be."""

from __future__ import annotations

import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from .problems import (
    BOUND,
    ROOT,
    attempt,
    cuda,
    nano,
    open_carried_store,
    random_experts,
    random_input,
    random_logits,
    random_router,
)

OUT: Final = Path(os.environ.get("GPU_CHECK_OUT", "gpu-out"))
SMALL: Final = ("--hidden", "128", "--width", "192", "--experts", "8", "--top-k", "2",
                "--tokens", "1", "5")  # fmt: skip
"""The benchmark's layer where there is no GPU."""

OURS: Final = ("grouped", "combine", "place", "count", "route")
"""Names of our kernels."""

CALLS: Final = 8
"""Calls in one graph, each with experts of its own, so that weights come from memory."""


def bench() -> dict[str, Any]:
    """The project's own benchmark, whole; on a GPU it also writes the record that `plan` reads."""
    from nemotron_deploy.build.engines.tensorrt_llm import hardware

    benchmark = str(ROOT / "benchmarks" / "int4_kernels.py")
    options = ["--rounds", "20", "--record"] if cuda() else ["--rounds", "1", *SMALL]
    command = [sys.executable, benchmark, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1][:300]
        return {"verdict": last, "ok": False, "stderr": done.stderr[-3000:]}
    print(done.stderr[-1500:])
    report = json.loads(done.stdout.splitlines()[-1])
    if cuda():
        shutil.copy(hardware.RECORD, OUT / hardware.RECORD.name)
    rows = report["rows"]
    short = ", ".join(
        f"{r['tokens']}: {r['int4_us']}us {r['times_byte_limit']}x limit {r['speedup']}x bf16"
        for r in rows
    )
    return {
        "report": report,
        "ok": all(r["error"] < BOUND for r in rows),
        "verdict": f"copy {report['copy_bytes_per_s'] / 1e12:.2f} TB/s; "
        f"stored cubins {report['stored_cubins']}; {short}",
    }


def floor() -> dict[str, Any]:
    """What a launch and a read cost at least (`floor.py`)."""
    if not cuda():
        return {"verdict": "needs CUDA", "ok": False}
    from .floor import measure

    found = measure()
    reads = {k: v for k, v in found.items() if k.startswith("read") and not isinstance(v, str)}
    best: dict[str, tuple[str, float]] = {}
    for key, value in sorted(reads.items(), key=lambda item: item[1]):
        best.setdefault(key[: key.index("pdl") + 5], (key, value))
    empty = {k: v for k, v in found.items() if k.startswith("empty")}
    return {"found": found, "ok": bool(reads), "verdict": f"{empty}; best {list(best.values())}"}


def _problems(shape: Any, tokens: int, count: int) -> list[tuple[Any, Any, Any]]:
    """Hidden states, the router's logits, the router."""
    import torch

    router = random_router(shape)
    return [
        (random_input(shape, tokens, torch.bfloat16)[0], random_logits(shape, tokens), router)
        for _ in range(count)
    ]


def kernels() -> dict[str, Any]:
    """Each launch's own time and the gaps between them, in a graph; the host's cost of a call."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from nemotron_deploy.build import kernels as ours
    from nemotron_deploy.build.kernels import steps

    if not cuda():
        return {"verdict": "needs CUDA", "ok": False}
    shape = nano()
    experts = random_experts(shape)
    found: dict[str, Any] = {}
    host: dict[str, float] = {}
    for stored in (False, True):
        if stored and attempt(open_carried_store) is not True:
            continue
        where = "cubin" if stored else "jit"
        for tokens in (1, 4, 8, 16, 64, 512, 2048):
            problems = _problems(shape, tokens, CALLS)
            for given in problems:
                ours.routed_moe(*given, experts)
            torch.cuda.synchronize()
            if tokens == 16:
                at = time.perf_counter()
                for given in problems * 12:
                    ours.routed_moe(*given, experts)
                host[where] = round(1e6 * (time.perf_counter() - at) / 96, 1)
                torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for given in problems:
                    ours.routed_moe(*given, experts)
            for _ in range(3):
                graph.replay()
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CUDA]) as seen:
                for _ in range(4):
                    graph.replay()
                torch.cuda.synchronize()
            whole = replace(shape, routes=shape.experts)
            names = [step.kernel for step in steps.routed(whole, tokens, 90).steps]
            found[f"{where} {tokens}"] = attempt(lambda s=seen, n=names: _launches(s, n))
    rows = [f"{key}: {value['text']}" for key, value in found.items() if isinstance(value, dict)]
    return {
        "launches": found,
        "host_us_a_call": host,
        "ok": bool(rows),
        "verdict": f"host us a call {host}; " + "; ".join(rows),
    }


def _launches(seen: Any, names: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        seen.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    rows = sorted(
        (e["ts"], e["dur"], e["name"])
        for e in events
        if e.get("cat") == "kernel" and any(n in e["name"] for n in OURS)
    )
    if len(rows) % len(names):
        raise AssertionError(f"{len(rows)} kernels seen, calls have {len(names)}")
    per = [statistics.median(r[1] for r in rows[i :: len(names)]) for i in range(len(names))]
    gaps = [rows[i + 1][0] - rows[i][0] - rows[i][1] for i in range(len(rows) - 1)]
    text = " ".join(f"{n} {us:.1f}" for n, us in zip(names, per, strict=True))
    gap = statistics.median(gaps)
    return {
        "us": per,
        "gap_us": gap,
        "text": f"{text} gap {gap:.1f} sum {sum(per) + gap * len(per):.1f}",
    }


def _candidates(short: bool) -> list[Any]:
    from nemotron_deploy.build.kernels.configs import Tile

    tiles = [
        Tile(8, n, slices * each, stages, unroll=unroll, slices=slices)
        for n, each in ((32, 1), (64, 1), (64, 2))
        for slices in (1, 2, 4, 8)
        for stages in (3, 4, 6)
        for unroll in (1, 2)
        if slices * each <= 8 and unroll * stages * slices <= 24
    ]
    return tiles[:2] if short else tiles


def _compile(job: tuple[str, int, Any, int]) -> Any:
    """In a worker: (product, tokens, tile, sm) -> what was compiled, unchecked."""
    os.environ.pop("TRITON_INTERPRET", None)
    from nemotron_deploy.build.kernels import aot

    aot._check = lambda item, sm, ptx: None
    product, tokens, tile, sm = job
    try:
        step, types = _lone_step(product, tokens, tile, sm)
        return job, aot.compile_step(step, types, tile, sm)
    except Exception as error:
        return job, f"{type(error).__name__}: {str(error)[:200]}"


def _lone_step(product: str, tokens: int, tile: Any, sm: int) -> tuple[Any, tuple[str, ...]]:
    from nemotron_deploy.build.kernels import steps

    shape = steps.Shape(2688, 1856, 128, 6, 64, scale_divisor=7)
    pairs = tokens * shape.top_k
    ends = ("hidden", "inner") if product == "up" else ("inner", "partial")
    buffers = {
        "inner": steps.Buffer((pairs, shape.width), steps.ACTIVATION),
        "partial": steps.Buffer((pairs, shape.hidden), "fp32"),
    }
    step = steps._product(
        product, shape, tile, steps.PAIRS, pairs, pairs, ("expert_ids", "expert_ids"), ends
    )
    (step,) = steps._overlapping((step,), sm)
    plan = steps.Steps((step,), buffers, tile, shape.scale_type)
    return step, steps.operand_types(step, plan, "bf16")


def sweep() -> dict[str, Any]:
    """Decode tiles that the table does not have, unsorted: 1, 2 and 4 tokens."""
    import torch

    from nemotron_deploy.build.kernels.configs import tile_for_pairs
    from nemotron_deploy.build.kernels.driver import CudaDriver

    tiles = _candidates(not cuda())
    sm = (
        90
        if not cuda()
        else 10 * torch.cuda.get_device_capability()[0] + torch.cuda.get_device_capability()[1]
    )
    jobs = [(product, 1, tile, sm) for product in ("up", "down") for tile in tiles]
    # The number of tokens is no constant of the kernel: one cubin serves all of them.
    compiled: dict[Any, Any] = {}
    failed: list[str] = []
    with ProcessPoolExecutor(min(14, os.cpu_count() or 1), get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_compile, job) for job in jobs]):
            job, item = future.result()
            if isinstance(item, str):
                failed.append(f"{job[0]} {job[2]}: {item}")
            else:
                compiled[job[0], job[2]] = item
    if not cuda():
        return {
            "verdict": f"{len(compiled)} of {len(jobs)} compiled; timing needs CUDA",
            "ok": not failed,
            "failed": failed,
        }
    shape, driver = nano(), CudaDriver()
    experts = random_experts(shape)
    torch.cuda.synchronize()
    rows = []
    for (product, tile), item in compiled.items():
        row = {
            "product": product,
            "block_n": tile.block_n,
            "warps": tile.warps,
            "stages": tile.stages,
            "unroll": tile.unroll,
            "slices": tile.slices,
            "registers": item.machine.registers,
            "shared": item.shared,
            "spill": item.machine.local + item.machine.stack,
        }
        function = attempt(lambda i=item: driver.load(i.cubin, i.symbol, i.shared))
        if isinstance(function, str):
            failed.append(f"{product} {tile}: {function}")
            continue
        for tokens in (1, 2, 4):
            row[f"us_{tokens}"] = attempt(
                lambda f=function, i=item, p=product, t=tokens, tile=tile: _time_alone(
                    driver, f, i, p, t, tile, shape, experts
                )
            )
        rows.append(row)
    best = {}
    for product in ("up", "down"):
        for tokens in (1, 2, 4):
            mine = [
                r
                for r in rows
                if r["product"] == product and not isinstance(r[f"us_{tokens}"], str)
            ]
            if mine:
                first = min(mine, key=lambda r: r[f"us_{tokens}"])
                table = next(
                    (
                        r
                        for r in mine
                        if _key(r) == _key(asdict(tile_for_pairs(tokens * nano().top_k)))
                    ),
                    None,
                )
                best[f"{product} {tokens}"] = {
                    "best": first,
                    "table_us": table[f"us_{tokens}"] if table else None,
                }
    text = "; ".join(
        f"{key}: {_name(b['best'])} "
        f"{b['best']['us_' + key.split()[1]]:.1f} us (table {b['table_us']})"
        for key, b in best.items()
    )
    return {
        "rows": rows,
        "failed": failed,
        "best": best,
        "ok": bool(best),
        "verdict": f"{len(rows)} variants, {len(failed)} failed; {text}",
    }


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("block_n", "warps", "stages", "unroll", "slices"))


def _name(row: dict[str, Any]) -> str:
    return "{}x{}w{}s{}u{}".format(*_key(row))


def _time_alone(
    driver: Any,
    function: int,
    item: Any,
    product: str,
    tokens: int,
    tile: Any,
    shape: Any,
    experts: Any,
) -> float:
    """Microseconds of one product, eight calls with different experts in a graph."""
    import torch

    from nemotron_deploy.build.kernels import launch

    step, _ = _lone_step(product, tokens, tile, launch.sm_of(0))
    pairs = tokens * shape.top_k
    queue = driver.prepare(
        function, step.programs, 32 * step.warps, item.shared, len(item.parameters)
    )
    held = []
    for _ in range(CALLS):
        hidden, ids, _ = random_input(shape, tokens, torch.bfloat16)
        inner = torch.randn(pairs, shape.width, device="cuda").bfloat16()
        held.append((hidden, ids, inner, torch.empty(pairs, shape.hidden, device="cuda")))

    def launch_all() -> None:
        stream = torch.cuda.current_stream().cuda_stream
        for hidden, ids, inner, partial in held:
            x, out = (hidden, inner) if product == "up" else (inner, partial)
            words, scale = (
                (experts.up, experts.up_scale)
                if product == "up"
                else (experts.down, experts.down_scale)
            )
            pointers = [t.data_ptr() for t in (x, words, scale, out, ids, ids)]
            queue(stream, [*pointers, pairs, 0, shape.experts, 0, 0])

    launch_all()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch_all()
    graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(13)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    times = [first.elapsed_time(second) for first, second in pairwise(events)]
    return round(1e3 * statistics.median(times) / CALLS, 2)


def ncu() -> dict[str, Any]:
    """What Nsight Compute is shown: one call at 1, 8 and 64 tokens."""
    import torch

    from nemotron_deploy.build import kernels as ours

    shape = nano()
    experts = random_experts(shape)
    for tokens in (1, 8, 64):
        for given in _problems(shape, tokens, 2 if tokens > 1 else 3):
            ours.routed_moe(*given, experts)
    if cuda():
        torch.cuda.synchronize()
    return {"verdict": "see ncu.csv", "ok": True}


def ncu_rows(results: Path) -> list[dict[str, Any]]:
    """What Nsight Compute wrote, a row a kernel."""
    lines = (results / "ncu.csv").read_text(errors="replace").splitlines()
    begun = next(i for i, line in enumerate(lines) if line.startswith('"ID"'))
    rows: dict[str, dict[str, Any]] = {}
    wanted = {
        "DRAM Throughput": "dram",
        "Achieved Occupancy": "occupancy",
        "Duration": "us",
        "Registers Per Thread": "registers",
        "Memory Throughput": "memory",
        "L1/TEX Hit Rate": "l1",
        "L2 Hit Rate": "l2",
        "Waves Per SM": "waves",
        "Warp Cycles Per Issued Instruction": "cycles_per_issue",
        "Theoretical Occupancy": "most_occupancy",
    }
    for row in csv.DictReader(lines[begun:]):
        one = rows.setdefault(
            row["ID"], {"kernel": row["Kernel Name"], "grid": row.get("Grid Size")}
        )
        if row.get("Metric Name") in wanted:
            one.setdefault(
                wanted[row["Metric Name"]],
                f"{row['Metric Value']} {row['Metric Unit']}".strip("% "),
            )
    return list(rows.values())
