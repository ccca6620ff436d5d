"""The INT4 expert layer on the GPU that is here: errors, times, a line for the hardware record.

One MoE layer at Nano's widths, fresh random weights and inputs, kernels compiled ahead of time. For
each number of tokens: the largest relative error of a token against FP32; the time of the layer,
from replaying one CUDA graph that holds several calls with different experts, so that weights come
from memory and not from the cache; the same with the launch that chooses the experts; the same
layer in BF16 with PyTorch's grouped product; and the byte limit: the weights of the experts hit,
read once at the bandwidth that a copy reaches in the same run.

Prints one JSON line. On a GPU, `--record` adds a run to the record that `plan` reads. On a CPU it
runs as well, through the ops' reference or Triton's interpreter: errors then mean something, times
do not, and nothing is recorded.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemotron_deploy.build import kernels
from nemotron_deploy.build.engines.tensorrt_llm import hardware
from nemotron_deploy.build.kernels import aot, launch, steps
from nemotron_deploy.build.kernels.interpreter import interpreting
from nemotron_deploy.build.kernels.load import open_store
from nemotron_deploy.build.kernels.packing import decode
from nemotron_deploy.build.kernels.source import source_digest

TOKENS = (1, 2, 4, 8, 16, 32, 64, 256, 1024, 4096)
CALLS = 8
"""Calls in one graph, each with its own inputs."""

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """Inputs of one call."""

    hidden: Tensor
    ids: Tensor
    weights: Tensor

    @classmethod
    def random(cls, shape: steps.Shape, tokens: int, device: str, dtype: torch.dtype) -> Problem:
        ids = torch.rand(tokens, shape.experts, device=device).topk(shape.top_k).indices
        hidden = torch.randn(tokens, shape.hidden, device=device) / 8
        weights = torch.rand(tokens, shape.top_k, device=device)
        return cls(hidden.to(dtype), ids.int(), weights)


def random_experts(shape: steps.Shape, device: str) -> kernels.PackedExperts:
    """Packed weights of one layer, with scales as `quantize` gives them; every value of a byte
    occurs."""

    def matrix(rows: int, columns: int) -> tuple[Tensor, Tensor]:
        size = (shape.experts, rows // 2, columns)
        packed = torch.randint(0, 256, size, dtype=torch.uint8, device=device)
        groups = (shape.experts, rows, columns // shape.group)
        largest = (torch.rand(groups, device=device) / 15 + 0.01).bfloat16().float()
        return packed, largest / torch.full_like(largest, shape.scale_divisor)

    return kernels.pack(*matrix(shape.width, shape.hidden), *matrix(shape.hidden, shape.width))


def in_bf16(experts: kernels.PackedExperts) -> Layer:
    """The same layer in BF16: sorted tokens, PyTorch's grouped product, weighted sum."""

    def dense(words: Tensor, scale: Tensor, columns: int) -> Tensor:
        rows = [
            decode(w, s, columns, experts.group, experts.scale_divisor).bfloat16()
            for w, s in zip(words, scale, strict=True)
        ]
        return torch.stack(rows)

    up = dense(experts.up, experts.up_scale, experts.hidden).transpose(1, 2)
    down = dense(experts.down, experts.down_scale, experts.width).transpose(1, 2)

    def layer(hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        top_k = ids.shape[1]
        order = ids.flatten().argsort(stable=True)
        counts = torch.zeros(experts.count, dtype=torch.int32, device=ids.device)
        counts.scatter_add_(0, ids.flatten().long(), torch.ones_like(ids.flatten()))
        ends = counts.cumsum(0, dtype=torch.int32)
        inner = torch._grouped_mm(hidden[order // top_k].bfloat16(), up, offs=ends)
        rows = torch._grouped_mm(inner.relu().square(), down, offs=ends)
        out = torch.zeros_like(hidden, dtype=torch.float32)
        scaled = rows.float() * weights.flatten()[order].unsqueeze(1)
        return out.index_add_(0, order // top_k, scaled).to(hidden.dtype)

    return layer


def error(layer: Layer, problem: Problem, experts: kernels.PackedExperts) -> float:
    """The largest relative error of a token, against FP32 on the same packed weights."""
    out = layer(problem.hidden, problem.ids, problem.weights).float()
    expected = kernels.reference_moe(
        problem.hidden.float(), problem.ids, problem.weights, experts, 0
    )
    worst = (out - expected).norm(dim=1) / expected.norm(dim=1)
    return float(worst.nan_to_num(torch.inf).max())


def seconds(work: Callable[[], object], rounds: int, device: str) -> float:
    """Median time of `work`; on a GPU of its captured graph's replay."""
    if device == "cpu":
        times = []
        for _ in range(rounds):
            begun = time.perf_counter()
            work()
            times.append(time.perf_counter() - begun)
        return statistics.median(times)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # as a server does before it captures
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    graph.replay()
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    times = [first.elapsed_time(second) for first, second in pairwise(events)]
    return statistics.median(times) / 1e3


def copy_bandwidth(device: str, rounds: int) -> float:
    """Bytes a second that a large copy reads and writes.

    By a kernel: a copy that a graph holds as a copy node reached 2.7 TB/s on an H200 where this
    reaches 4.2.
    """
    size = (1 << 29) if device == "cuda" else (1 << 22)
    source = torch.zeros(size, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 8 * size / seconds(lambda: torch.add(source, 1.0, out=target), rounds, device)


def measure(shape: steps.Shape, tokens: int, rounds: int, device: str, bandwidth: float,
            experts: kernels.PackedExperts, bf16: Layer) -> dict[str, Any]:  # fmt: skip
    """One number of tokens."""
    dtype = torch.float16 if interpreting() else torch.bfloat16
    problems = [Problem.random(shape, tokens, device, dtype) for _ in range(CALLS)]

    def int4(hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return kernels.moe(hidden, ids, weights, experts)

    def all_of(layer: Layer) -> Callable[[], object]:
        return lambda: [layer(p.hidden, p.ids, p.weights) for p in problems]

    hit = statistics.mean(len(problem.ids.unique()) for problem in problems)
    limit = hit * experts.bytes / experts.count / bandwidth
    ours = seconds(all_of(int4), rounds, device) / CALLS
    theirs = seconds(all_of(bf16), rounds, device) / CALLS
    router = kernels.Router(
        torch.rand(shape.experts, device=device) / 8, torch.ones(1, device=device), shape.top_k
    )
    logits = [torch.randn(tokens, shape.experts, device=device) for _ in problems]

    def choosing() -> object:
        pairs = zip(problems, logits, strict=True)
        return [kernels.routed_moe(p.hidden, seen, router, experts) for p, seen in pairs]

    return {
        "tokens": tokens,
        "error": error(int4, problems[0], experts),
        "bf16_error": error(bf16, problems[0], experts),
        "int4_us": round(1e6 * ours, 2),
        "int4_with_router_us": round(1e6 * seconds(choosing, rounds, device) / CALLS, 2),
        "bf16_us": round(1e6 * theirs, 2),
        "byte_limit_us": round(1e6 * limit, 2),
        "times_byte_limit": round(ours / limit, 3),
        "speedup": round(theirs / ours, 3),
    }


def goals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What was asked for, and what came out; for a GPU."""
    decode_rows = [row for row in rows if row["tokens"] <= 16]
    middle = [row for row in rows if 64 <= row["tokens"] <= 256]
    large = [row for row in rows if row["tokens"] == 4096]
    return {
        "error": {"wanted": 0.01, "most": max(row["error"] for row in rows)},
        "times_byte_limit_1_to_16": {
            "wanted": 1.35, "most": max((r["times_byte_limit"] for r in decode_rows), default=None),
        },
        "speedup_1_to_16": {
            "wanted": 2.5, "least": min((r["speedup"] for r in decode_rows), default=None),
        },
        "speedup_64_to_256": {
            "wanted": 1.0, "least": min((r["speedup"] for r in middle), default=None),
        },
        "speedup_4096": {
            "wanted": round(1 / 1.3, 3), "least": min((r["speedup"] for r in large), default=None),
        },
    }  # fmt: skip


class _Compiled(logging.Handler):
    """Counts kernels that were compiled here, because no stored one fitted."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "compiling it here" in record.getMessage()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="*", default=TOKENS)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--hidden", type=int, default=2688)
    parser.add_argument("--width", type=int, default=1856)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--top-k", type=int, default=6)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--record", action="store_true", help="add this run to the record")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if given.record and device == "cpu":
        parser.error("--record is for a run on a GPU, and there is none here")
    shape = steps.Shape(
        given.hidden,
        given.width,
        given.experts,
        given.top_k,
        given.group,
        routes=given.experts,
        scale_divisor=7,
    )
    torch.manual_seed(time.time_ns() % (1 << 31))
    counted = _Compiled()
    logging.getLogger(launch.__name__).addHandler(counted)
    stored = None
    with tempfile.TemporaryDirectory() as folder:
        if device == "cuda":
            aot.build(
                Path(folder), shape, launch.sm_of(0), most_tokens=max(given.tokens), workers=4
            )
            stored = open_store(Path(folder))
        experts = random_experts(shape, device)
        bandwidth = copy_bandwidth(device, given.rounds)
        bf16 = in_bf16(experts)
        rows = [
            measure(shape, tokens, given.rounds, device, bandwidth, experts, bf16)
            for tokens in given.tokens
        ]
    report: dict[str, Any] = {
        "benchmark": "int4_kernels",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "ran": "kernels" if device == "cuda" or interpreting() else "reference",
        "stored_cubins": stored is not None and counted.count == 0,
        "copy_bytes_per_s": round(bandwidth),
        "rows": rows,
    }
    if device == "cuda":
        report["goals"] = goals(rows)
    if given.record:
        hardware.add(_run(report, stored is not None and counted.count == 0))
    print(json.dumps(report))


def _run(report: dict[str, Any], stored: bool) -> hardware.Run:
    import triton

    rows = report["rows"]
    return hardware.Run(
        gpu=report["device"],
        sm=launch.sm_of(0),
        date=datetime.now(UTC).date().isoformat(),
        source=source_digest(),
        torch=torch.__version__,
        triton=triton.__version__,
        error=max(row["error"] for row in rows),
        speedup={str(row["tokens"]): row["speedup"] for row in rows},
        over_byte_limit={str(row["tokens"]): row["times_byte_limit"] for row in rows},
        stored_cubins=stored,
    )


if __name__ == "__main__":
    main()
