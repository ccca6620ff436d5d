"""The INT4 kernels without a GPU: what the compiler made of them, and a prediction from that.

Compiles what Nano's MoE layer launches and prints one JSON line. `kernels` is measured: read from
the compiler's resource report and the disassembled machine code. `predicted` is a PREDICTION from
that, with constants measured on an H200 (docs/hardware.md). Per product it is a launch's start-up
and drain, plus the slowest of

- bytes over the bandwidth that a copy reaches, a share of the datasheet's;
- the fullest multiprocessor's instructions in the loop: a warp by itself issues one in
  `LONE_CYCLES` cycles, a scheduler at most one a cycle;
- multiplications, padding included, over the datasheet's matrix rate,

the three overlapped. Routing, sorting and the weighted sum take what they took on the H200. A
launch that may start while the one before it ends costs what reading costs to start and drain.
`equal_stripes_save_at_most` compares an equal share of work for each multiprocessor with the
fullest one reading at its share of the bandwidth, before the parts of a split output are added up.
The byte limit reads the weights of every expert hit once at the copy's bandwidth. Tokens choose
experts evenly.
`measured` shows what earlier kernels took on an H200 beside the prediction for these. The same
prediction gave 22.2 us for those at one token (23.0 measured), and 0.58 to 0.97 of the measured
time elsewhere: it is a lower bound for many tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron_deploy.build.kernels import aot, configs, layout, machine, steps, store
from nemotron_deploy.model import catalog

NANO = steps.Shape(
    hidden=2688, width=1856, experts=128, top_k=6, group=64, routes=128, scale_divisor=7
)
SHARED = steps.Shape(hidden=2688, width=3712, experts=1, top_k=1, group=64, scale_divisor=7)
TOKENS = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096, 8192)
DECODE = 16
"""Tokens up to which a batch counts as decoding here."""

GPUS = {"a100": (108, 2048), "h100": (132, 4096), "h200": (132, 4096)}
"""Multiprocessors (SXM), and dense BF16 operations of one in a clock; the clock follows from the
datasheet's rate. Four instructions are issued a clock (NVIDIA architecture whitepapers)."""

SCHEDULERS = 4
"""Of one multiprocessor; each issues one instruction a cycle."""

COPY_SHARE = 4.26 / 4.8
"""Of the datasheet's bandwidth that a copy kernel reached on an H200."""

LAUNCH_S = 2.3e-6
"""What reading the same bytes in two launches took longer than with the launches overlapped."""

OVERLAPPED_S = (9.6 - 7.9 - 0.65) * 1e-6
"""What reading a token's bytes in one launch took longer than the byte limit, less an empty launch:
for a launch that starts before the one before it has ended."""

LONE_CYCLES = 2.63
"""Cycles between two instructions of a warp that has a scheduler to itself (Nsight Compute)."""

SORTING_S = {"place": (8.5e-6, 12e-6), "count": (0.0, 3.5e-6)}
"""Up to 128 pairs, and above (64 tokens)."""

ROUTE_S = 1.9e-6
"""A prototype of `route` alone."""

COMBINE_S = {False: 2.2e-6, True: 2.2e-6 - 0.65e-6}
"""By whether it may start before `down` has ended: an empty launch took 0.65 us."""

MEASURED_US = {
    1: 23.0, 2: 29.4, 4: 42.3, 8: 80.9, 16: 116.9, 32: 164.8, 64: 197.2,
    256: 263.8, 1024: 411.4, 4096: 1381.4,
}  # fmt: skip
"""One layer without its router on an H200, 2026-11-27, with the kernels of that day: nothing was
sliced or overlapped."""

COMPILED = dict[store.Identity, aot.Compiled]


def key(step: steps.Step, plan: steps.Steps) -> store.Identity:
    return store.identity(step, steps.operand_types(step, plan, "bf16"))


def resident_programs(item: aot.Compiled, sm: int) -> int:
    """Programs that one multiprocessor holds at once."""
    threads = 32 * item.step.warps
    shared = item.shared + item.machine.static_shared
    return min(
        configs.REGISTERS // (threads * max(item.machine.registers, 1)),
        configs.SHARED_LIMIT[sm] // max(shared, 1),
        configs.THREADS[sm] // threads,
        32,
    )


def bytes_per_block(constants: dict[str, int]) -> int:
    """Weights and scales of one block of the input width, as one program copies them."""
    words = constants["BLOCK_N"] * constants["BITS"] * layout.BLOCK_K // 8
    return words + int(constants["BLOCK_N"] * layout.BLOCK_K * scale_bytes(constants))


def scale_bytes(constants: dict[str, int]) -> float:
    """Bytes of scales for each weight."""
    each = 4 if constants["SCALE_DIVISOR"] == layout.FP32_SCALES else 2
    return each / constants["GROUP"]


def bytes_in_flight(constants: dict[str, int]) -> int:
    """What one program has under way while it computes."""
    blocks = constants["UNROLL"] * constants["SLICES"]
    return (constants["STAGES"] - 1) * blocks * bytes_per_block(constants)


def describe(item: aot.Compiled, sm: int) -> dict[str, Any]:
    """One compiled variant's figures; per-weight counts are instructions of a thread per weight
    that it multiplies."""
    report, constants = item.machine, dict(item.step.constants)
    threads = 32 * item.step.warps
    resident = resident_programs(item, sm)
    figures = {
        "kernel": item.step.kernel,
        "registers": report.registers,
        "shared_bytes": item.shared + report.static_shared,
        "spill_bytes": report.local + report.stack,
        "resident_programs": resident,
        "occupancy": round(resident * threads / configs.THREADS[sm], 3),
    }
    if item.step.kernel == "grouped":
        step_k = layout.BLOCK_K * constants["UNROLL"] * constants["SLICES"]
        weights = constants["BLOCK_N"] * step_k / threads
        counts = {
            "conversion": report.counted(machine.CONVERSIONS),
            "integer_or_conversion": report.counted(machine.CONVERSIONS + machine.INTEGER),
            "matrix": report.counted(tuple(machine.MATRIX.values())),
            "all": sum(report.loop.values()),
        }
        rows = math.ceil(constants["K"] / layout.BLOCK_K)
        activations = constants["BLOCK_M"] * 2 * constants["K"]
        result = constants["BLOCK_M"] * constants["BLOCK_N"] * 4
        shown = ("N", "K", "MODE", "BLOCK_M", "BLOCK_N", "SLICES", "STAGES", "UNROLL")
        figures |= {name: constants[name] for name in shown}
        figures |= {
            "matrix": list(report.matrix),
            "load_widths": {str(width): count for width, count in report.loads.items()},
            "per_weight": {name: round(n / weights, 2) for name, n in counts.items()},
            "bytes_in_flight": bytes_in_flight(constants),
            "bytes_per_tile": {
                "weights_and_scales": rows * bytes_per_block(constants),
                "activations": activations,
                "result": result,
            },
        }
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


@dataclass(frozen=True)
class Product:
    """Seconds that one product is predicted to take, and its byte limit."""

    seconds: float
    limit: float
    bf16: float
    uneven: float
    """Where the fullest multiprocessor has to read its bytes with its share of the bandwidth."""
    even: float
    """Where all multiprocessors have equally much to do, which stripes of work would give."""


def product(gpu_key: str, step: steps.Step, item: aot.Compiled, tokens: int) -> Product:
    gpu, (processors, operations) = catalog.gpu(gpu_key), GPUS[gpu_key]
    clock = gpu.bf16_flops / (processors * operations)
    bandwidth = COPY_SHARE * gpu.bandwidth_bytes_per_s
    constants = dict(step.constants)
    n, k, pairs = constants["N"], constants["K"], tokens * NANO.top_k
    hit, filled = blocks(tokens, constants["BLOCK_M"])
    used = pairs if constants["MODE"] == steps.PAIRS else filled
    programs = used * math.ceil(n / constants["BLOCK_N"])
    # Weights that programs of one expert share come from the cache after the first.
    stored = hit * n * k * (constants["BITS"] / 8 + scale_bytes(constants))
    read = stored + pairs * 2 * k
    written = pairs * n * (2 if constants["RELU2"] or item.tile.narrow_partials else 4)
    turns = math.ceil(k / (layout.BLOCK_K * constants["SLICES"] * constants["UNROLL"]))
    start = OVERLAPPED_S if step.overlaps else LAUNCH_S
    instructions = turns * sum(item.machine.loop.values())
    # Programs go to the multiprocessors in turn, and their warps to the schedulers.
    mean = programs / processors
    fullest = math.ceil(mean) * step.warps
    resident = min(fullest, resident_programs(item, gpu.sm) * step.warps)
    rate = min(1.0, math.ceil(resident / SCHEDULERS) / LONE_CYCLES)
    issued = math.ceil(fullest / SCHEDULERS) * instructions / (rate * clock)
    multiply = 2 * used * constants["BLOCK_M"] * n * k / gpu.bf16_flops
    plain = (hit * n * k * 2 + pairs * 2 * k + written) / bandwidth
    moved, share = (read + written) / bandwidth, math.ceil(mean) / mean
    return Product(
        start + max(moved, issued, multiply),
        stored / bandwidth,
        start + max(plain, multiply),
        start + max(moved * share, issued, multiply),
        start + max(moved, issued / share, multiply),
    )


def layer(gpu_key: str, tokens: int, compiled: COMPILED, tile: configs.Tile | None) -> Product:
    """All of one MoE layer's routed experts, with the table's tile or another one."""
    plan = steps.routed(NANO, tokens, catalog.gpu(gpu_key).sm, tile)
    products = [step for step in plan.steps if step.kernel == "grouped"]
    parts = [product(gpu_key, step, compiled[key(step, plan)], tokens) for step in products]
    many = tokens * NANO.top_k > 128
    others = COMBINE_S[plan.steps[-1].overlaps] + sum(
        ROUTE_S if step.kernel == "route" else SORTING_S[step.kernel][many]
        for step in plan.steps
        if step.kernel in (*SORTING_S, "route")
    )
    return Product(
        sum(part.seconds for part in parts) + others,
        sum(part.limit for part in parts),
        sum(part.bf16 for part in parts),
        sum(part.uneven for part in parts) + others,
        sum(part.even for part in parts) + others,
    )


def predict(gpu_key: str, tokens: int, compiled: COMPILED) -> dict[str, Any]:
    """Microseconds of one layer with the table's choice, and with every other tile of the table."""
    sm = catalog.gpu(gpu_key).sm
    found = layer(gpu_key, tokens, compiled, None)
    others = {
        f"{tile.block_m}x{tile.block_n}": layer(gpu_key, tokens, compiled, tile).seconds
        for tile in dict.fromkeys(tile for _, tile in configs.TILES[sm])
    }
    chosen = steps.routed(NANO, tokens, sm)
    return {
        "tokens": tokens,
        "launches": len(chosen.steps),
        "byte_limit_us": round(1e6 * found.limit, 1),
        "int4_us": round(1e6 * found.seconds, 1),
        "bf16_same_blocks_us": round(1e6 * found.bf16, 1),
        "times_byte_limit": round(found.seconds / found.limit, 2),
        "equal_stripes_save_at_most": round(1 - found.even / found.uneven, 3),
        "tile": f"{chosen.tile.block_m}x{chosen.tile.block_n}",
        "sorted": "slots" in chosen.buffers,
        "other_tiles_us": {name: round(1e6 * seconds, 1) for name, seconds in others.items()},
        "times_best_tile": round(found.seconds / min(found.seconds, *others.values()), 3),
    }


def beside_measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The H200's prediction, router included, beside what earlier kernels took without one."""
    predicted = {row["tokens"]: row["int4_us"] for row in rows}
    return [
        {
            "tokens": tokens,
            "measured_earlier_us": measured,
            "predicted_us": predicted[tokens],
        }
        for tokens, measured in MEASURED_US.items()
        if tokens in predicted
    ]


def goals(report: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, and what came out."""
    products = [k for rows in report["kernels"].values() for k in rows if k["kernel"] == "grouped"]
    small = {"mma": 16}  # rows an expert gets while decoding
    decode = [k for k in products if k["BLOCK_M"] <= small["mma"]]
    predicted = [row for name in GPUS for row in report["predicted"].get(name, [])]
    return {
        "spill_bytes": {"wanted": 0, "most": max(k["spill_bytes"] for k in products)},
        "weights_16_bytes_at_a_time": {
            "wanted": True,
            "all": all("16" in k["load_widths"] for k in products),
        },
        "integer_or_conversion_per_weight_while_decoding": {
            "wanted": 2.0,
            "most": max(k["per_weight"]["integer_or_conversion"] for k in decode),
        },
        "predicted_times_byte_limit_while_decoding": {
            "wanted": 1.35,
            "most": max(
                (r["times_byte_limit"] for r in predicted if r["tokens"] <= DECODE), default=None
            ),
        },
        "predicted_times_best_tile": {
            "wanted": 1.0,
            "most": max((r["times_best_tile"] for r in predicted), default=None),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sm", type=int, nargs="*", default=sorted(configs.SHARED_LIMIT))
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "benchmark": "int4_static",
        "run_on_a_gpu": False,
        "kernels": {},
        "predicted": {
            "prediction": "from the compiler's reports, with constants measured on an H200",
        },
    }
    for sm in arguments.sm:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TRITON_CACHE_DIR"] = folder  # so that every variant is compiled
            found = aot.build(
                Path(folder, "store"), NANO, sm, shared_shapes=[SHARED],
                most_tokens=max(TOKENS), workers=min(4, len(os.sched_getaffinity(0))),
            )  # fmt: skip
        compiled = {store.identity(item.step, item.types): item for item in found}
        report["kernels"][str(sm)] = [describe(item, sm) for item in found]
        for name in (name for name in GPUS if catalog.gpu(name).sm == sm):
            report["predicted"][name] = [predict(name, t, compiled) for t in TOKENS]
    if "h200" in report["predicted"]:
        report["measured"] = beside_measured(report["predicted"]["h200"])
    report["goals"] = goals(report)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
