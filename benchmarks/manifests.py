"""How long all manifests take: every GPU, format and engine, with all variants of each tree.

Writes each tree, lets kubectl render it where there is one, and checks it as `verify` does, in one
process for each core. Prints one JSON line. What a bundle of a GPU and format would be refused for
does not matter here: the manifests are written all the same.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

from nemotron_deploy import k8s
from nemotron_deploy.build.engines.registry import ENGINES, engine
from nemotron_deploy.k8s.options import WAYS, ClusterOptions
from nemotron_deploy.k8s.release import Release
from nemotron_deploy.model import catalog
from nemotron_deploy.model.formats import QUANTS
from nemotron_deploy.model.spec import Deployment

IMAGE = "nvcr.io/nvidia/tritonserver:26.08-py3"
Case = tuple[str, str, str, str]


def passes(case: Case) -> bool:
    """Write and check one tree; whether all checks pass."""
    gpu, quant, name, way = case
    deployment = Deployment(
        name=f"nemotron-3-nano-{gpu}-{quant}",
        model_name="nemotron-3-nano",
        image=IMAGE,
        gpu=catalog.gpu(gpu),
        gpus=1,
        quant=quant,
        bundle_bytes=20_000_000_000,
        executor=engine(name).executor,
        max_batch_size=64,
    )
    release = Release(deployment, "0" * 64, ("--gpu", gpu), options=ClusterOptions(weights=way))
    with tempfile.TemporaryDirectory() as folder:
        k8s.emit(Path(folder), release)
        return all(check.ok for check in k8s.check(Path(folder)).checks)


def main() -> None:
    """Measure."""
    ways = tuple(WAYS)
    combinations = product(catalog.gpus(), QUANTS, ENGINES)
    cases = [(*row, ways[number % len(ways)]) for number, row in enumerate(combinations)]
    begun = time.monotonic()
    with ProcessPoolExecutor() as pool:
        results = list(pool.map(passes, cases, chunksize=8))
    print(
        json.dumps(
            {
                "trees": len(cases),
                "variants": 2 * len(cases),
                "passed": sum(results),
                "seconds": round(time.monotonic() - begun, 1),
                "processes": os.cpu_count(),
                "kubectl": shutil.which("kubectl") is not None,
            }
        )
    )


if __name__ == "__main__":
    main()
