"""How fast a launch and a read can be, whatever the kernels do: the floor under one decode step.

`nothing`: an empty kernel, many in one graph. `read`: the bytes of the chosen experts, read once
and added up, in one launch or in two (as `up` and `down` are). Each with and without programmatic
dependent launch, where a launch may start before the one before it has ended.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def nothing(out, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def read(
    words, ids, out, STRIDE: tl.constexpr, PER: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    """Programs [6 * PER]: each adds up its part of one chosen expert's STRIDE int32."""
    if PDL:
        gdc_launch_dependents()
    program = tl.program_id(0)
    expert = tl.load(ids + program // PER).to(tl.int64)
    part: tl.constexpr = (STRIDE // 128 + PER - 1) // PER * 128
    first = (program % PER) * part
    base = words + expert * STRIDE
    total = tl.zeros((BLOCK,), tl.int32)
    for at in range(0, part, BLOCK):
        inside = at + tl.arange(0, BLOCK)
        place = first + inside
        total += tl.load(base + place, mask=(inside < part) & (place < STRIDE), other=0)
    result = tl.sum(total)
    if PDL:
        gdc_wait()
    tl.store(out + program, result)


def time_graph(launch_all: Callable[[], None], calls: int, rounds: int = 15) -> float:
    """Microseconds of one of `calls` calls that a replayed graph holds (median)."""
    launch_all()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch_all()
    graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    times = [first.elapsed_time(second) for first, second in pairwise(events)]
    return round(1e3 * statistics.median(times) / calls, 2)


def measure() -> dict[str, Any]:
    """Microseconds by what was launched."""
    out = torch.zeros(1 << 16, dtype=torch.int32, device="cuda")
    found: dict[str, Any] = {}

    def attempt(key: str, work: Callable[[], Any]) -> None:
        try:
            found[key] = work()
        except Exception as error:
            found[key] = f"{type(error).__name__}: {str(error)[:200]}"

    for programs in (1, 264):
        for pdl in (0, 1):

            def empty(n: int = programs, p: int = pdl) -> None:
                for _ in range(64):
                    nothing[(n,)](out, p, num_warps=4, launch_pdl=bool(p))

            attempt(f"empty {programs} pdl {pdl}", lambda e=empty: time_graph(e, 64))
    # Up and down of one expert of Nano in INT4, FP32 scales of groups of 64: 5.61 MB.
    stride = 2 * (2688 * 1856 // 8 + 2688 * 1856 // 64) // 4 * 4
    words = torch.randint(0, 1 << 20, (128, stride), dtype=torch.int32, device="cuda")
    chosen = [torch.randperm(128, device="cuda")[:6].int() for _ in range(16)]
    found["bytes"] = 6 * stride * 4
    for launches in (1, 2):
        for pdl in (0, 1):
            if launches == 1 and pdl:
                continue
            for per in (22, 44, 88, 176):
                for warps, block in ((4, 2048), (4, 4096), (8, 8192)):
                    lists = [
                        [(ids * launches + part).int() for part in range(launches)]
                        for ids in chosen
                    ]

                    def reads(lists=lists, n=launches, p=pdl, e=per, w=warps, b=block) -> None:
                        for mine in (one for parts in lists for one in parts):
                            read[(6 * e,)](
                                words,
                                mine,
                                out,
                                stride // n,
                                e,
                                b,
                                p,
                                num_warps=w,
                                launch_pdl=bool(p),
                            )

                    key = f"read in {launches} pdl {pdl} {6 * per}x{warps}w{block}"
                    attempt(key, lambda r=reads: time_graph(r, 16))
    return found
