"""The INT4 kernels without a GPU: what the compiler made of them, and a roofline over it.

Compiles what Nano's MoE layer launches and prints one JSON line. `kernels` is measured: read from
the machine code. `predicted` is an ESTIMATE and nothing else: per product the slowest of bytes over
the datasheet's bandwidth, instructions over the issue rate, and multiplications over the
datasheet's rate, all perfectly overlapped, plus a fixed gap a launch. No part of it was timed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from typing import Any

from nemotron_deploy import models
from nemotron_deploy.build.kernels import aot, configs, machine, steps

NANO = steps.Shape(hidden=2688, width=1856, experts=128, top_k=6, group=64)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096)

GPUS = {"a100": (108, 2048), "h100": (132, 4096)}
"""Multiprocessors (SXM), and dense BF16 operations of one in a clock; the clock follows from the
datasheet's rate. Four instructions are issued a clock (NVIDIA architecture whitepapers)."""


def describe(item: aot.Compiled, seconds: float, sm: int) -> dict[str, Any]:
    """One compiled variant's figures; per-weight counts are per thread's weight in the loop."""
    report, constants = item.machine, dict(item.step.constants)
    threads = 32 * item.step.warps
    shared = item.shared + report.static_shared
    resident = min(
        configs.REGISTERS // (threads * max(report.registers, 1)),
        configs.SHARED_LIMIT[sm] // max(shared, 1),
        configs.THREADS[sm] // threads,
        32,
    )
    figures = {
        "kernel": item.step.kernel,
        "compile_and_inspect_seconds": round(seconds, 2),
        "registers": report.registers,
        "shared_bytes": shared,
        "local_bytes": report.local + report.stack,
        "resident_programs": resident,
        "occupancy": round(resident * threads / configs.THREADS[sm], 3),
    }
    if item.step.kernel == "grouped":
        weights = constants["BLOCK_N"] * 64 * constants["UNROLL"] / threads
        per_weight = {
            "conversion": report.counted(machine.CONVERSIONS),
            "integer_or_conversion": report.counted(machine.CONVERSIONS + machine.INTEGER),
            "all": sum(report.loop.values()),
        }
        shown = ("N", "K", "MODE", "BLOCK_M", "BLOCK_N", "STAGES", "UNROLL", "HALVES")
        figures |= {name: constants[name] for name in shown}
        figures["matrix"] = list(report.matrix)
        figures["load_widths"] = {str(width): count for width, count in report.loads.items()}
        figures["per_weight"] = {name: round(n / weights, 2) for name, n in per_weight.items()}
    return figures


def blocks(tokens: int, block_m: int) -> tuple[float, float]:
    """(experts hit, blocks) to be expected where each token chooses `top_k` experts evenly."""
    chance = NANO.top_k / NANO.experts
    hit = NANO.experts * (1 - (1 - chance) ** tokens)
    filled = 0.0
    for count in range(1, tokens + 1):
        log = math.lgamma(tokens + 1) - math.lgamma(count + 1) - math.lgamma(tokens - count + 1)
        log += count * math.log(chance) + (tokens - count) * math.log1p(-chance)
        filled += math.exp(log) * math.ceil(count / block_m)
    return hit, NANO.experts * filled


def predict(key: str, tokens: int, compiled: dict[str, aot.Compiled], gap: float) -> dict[str, Any]:
    """Predicted microseconds of one layer; the byte limit reads each expert hit once."""
    gpu, (processors, operations) = models.gpu(key), GPUS[key]
    clock = gpu.bf16_flops / (processors * operations)
    plan = steps.routed(NANO, tokens, gpu.sm)
    hit, filled = blocks(tokens, plan.tile.block_m)
    total = limit = plain = 0.0
    for step in plan.steps:
        total += gap
        if step.kernel != "grouped":
            continue
        item = compiled[_key(step, plan)]
        constants = dict(step.constants)
        n, k, rows = constants["N"], constants["K"], tokens * NANO.top_k
        used = rows if constants["MODE"] == steps.PAIRS else filled
        weights = n * k
        read = hit * weights * (0.5 + 4 / NANO.group) / gpu.bandwidth_bytes_per_s
        moved = rows * (k * 2 + n * 4) / gpu.bandwidth_bytes_per_s
        turns = k / (64 * constants["UNROLL"])
        programs = used * math.ceil(n / constants["BLOCK_N"])
        issued = programs * step.warps * turns * sum(item.machine.loop.values())
        issue = issued / (processors * 4 * clock)
        multiply = 2 * used * constants["BLOCK_M"] * weights / gpu.bf16_flops
        total += max(read + moved, issue, multiply)
        limit += read
        plain += max(hit * weights * 2 / gpu.bandwidth_bytes_per_s + moved, multiply) + gap
    return {
        "tokens": tokens,
        "launches": len(plan.steps),
        "byte_limit_us": round(1e6 * limit, 1),
        "int4_us": round(1e6 * total, 1),
        "times_byte_limit": round(total / limit, 2),
        "times_byte_limit_without_gaps": round((total - gap * len(plan.steps)) / limit, 2),
        "bf16_same_blocks_us": round(1e6 * plain, 1),
    }


def _key(step: steps.Step, plan: steps.Steps) -> str:
    types = aot.operand_types(step, plan, "bf16")
    return json.dumps(aot.variant(step, types), sort_keys=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # given explicitly; else it warns
    parser.add_argument("--sm", type=int, nargs="*", default=sorted(configs.SHARED_LIMIT))
    parser.add_argument("--gap-us", type=float, default=1.0, help="assumed per launch in a graph")
    arguments = parser.parse_args()
    report: dict[str, Any] = {"benchmark": "kernels", "run_on_a_gpu": False, "kernels": {}}
    folder = tempfile.TemporaryDirectory()
    os.environ["TRITON_CACHE_DIR"] = folder.name  # so that every variant is compiled
    report["predicted"] = {"estimate": True, "assumed_gap_us": arguments.gap_us}
    for sm in arguments.sm:
        compiled, rows = {}, []
        for step, types, tile in aot.variants(NANO, [], sm, ["bf16"], max(TOKENS)):
            begun = time.perf_counter()
            item = aot.compile_step(step, types, tile, sm)
            rows.append(describe(item, time.perf_counter() - begun, sm))
            compiled[json.dumps(aot.variant(step, types), sort_keys=True)] = item
        report["kernels"][str(sm)] = rows
        for key in (key for key in GPUS if models.gpu(key).sm == sm):
            gap = arguments.gap_us / 1e6
            report["predicted"][key] = [predict(key, t, compiled, gap) for t in TOKENS]
    print(json.dumps(report))


if __name__ == "__main__":
    main()
