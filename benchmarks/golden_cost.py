"""What golden outputs of Nemotron 3 Nano cost, extrapolated from its layers; one JSON line.

One Mamba, one expert and one attention layer of Nano's full widths, with random weights, all 128
experts and the whole vocabulary, are quantized to INT4 and run as a build runs them: the source,
its plain rounding, and the checkpoint three times. Each kind's time is multiplied by the number of
such layers in Nano. Files are in the page cache; a disk adds the time to read the source once.
Processor time is what a machine that does nothing else takes, times the cores that it uses.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import generated
import torch

from nemotron_deploy.model.architecture import Model
from nemotron_deploy.model.catalog import TINY, known_model
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.model.recipes import CONSERVATIVE
from nemotron_deploy.quantize import forced, golden_texts
from nemotron_deploy.quantize.stream import quantize


def measure(work: Path, quant: str, with_source: bool) -> dict[str, Any]:
    source = Checkpoint.open(work / "source")
    origin = forced.Source(source, CONSERVATIVE[quant]) if with_source else None
    cases = [case for _, case in golden_texts.cases(TINY)]
    clocks = (time.perf_counter, time.process_time)
    times = [[clock() for clock in clocks]]
    forced.run(
        Checkpoint.open(work / quant),
        cases,
        origin,
        on_layer=lambda done: times.append([clock() for clock in clocks]),
    )
    times.append([clock() for clock in clocks])
    return {
        "tokens": sum(len(case.prompt) + len(case.forced) for case in cases),
        "wall": extrapolated(source.model.pattern, [row[0] for row in times]),
        "processor": extrapolated(source.model.pattern, [row[1] for row in times]),
    }


def extrapolated(pattern: str, times: list[float]) -> dict[str, Any]:
    """Seconds by kind of layer and of the head, and minutes for all of Nano. The embedding is a
    look-up before the first layer, and counted with it."""
    seconds = [after - before for before, after in pairwise(times)]
    by_kind = dict(zip(pattern, seconds, strict=False))
    total = seconds[-1] + sum(nano().layer_count(kind) * cost for kind, cost in by_kind.items())
    return {
        "seconds_a_layer": {kind: round(cost, 1) for kind, cost in by_kind.items()},
        "seconds_head": round(seconds[-1], 1),
        "nano_minutes": round(total / 60),
    }


def nano() -> Model:
    model = known_model("nemotron-3-nano-30b-a3b")
    assert model is not None
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quant", default="int4")
    parser.add_argument("--work", type=Path, help="where to put some 5 GB; default: temporary")
    arguments = parser.parse_args()
    experts = nano().moe
    assert experts is not None
    generated.EXPERTS, generated.VOCABULARY = experts.num_experts, nano().vocab_size
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        source = generated.generate(work / "source", repeats=1)
        (work / arguments.quant).mkdir()
        quantize(Checkpoint.open(source), CONSERVATIVE[arguments.quant], work / arguments.quant)
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report = {
            "benchmark": "golden_cost",
            "quant": arguments.quant,
            "with_source": measure(work, arguments.quant, with_source=True),
            "without_source": measure(work, arguments.quant, with_source=False),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 1),
            "peak_before_gb": round(base * 1024 / 1e9, 1),
            "predicted_gb": round(forced.bytes_needed(nano()) / 1e9, 1),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
