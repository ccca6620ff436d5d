"""`demo`: everything, on the embedded checkpoint and this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

from .. import loadtest as load
from ..core.bundle import Bundle
from ..core.errors import CheckFailedError
from ..core.progress import Progress, Silent
from ..model.catalog import DEFAULT_CHECKPOINT, TINY, text
from ..model.spec import Workload
from .ask import ask
from .build import build, prepare
from .inspect import inspect
from .loadtest import built_in_prompts, keep, show_levels, token_counter
from .serve import serving
from .verify import verify

GPU: Final = "h100"
QUANT: Final = "int4"
QUESTIONS: Final = 3
CONCURRENCIES: Final = (1, 4)


def demo(out: Path | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Inspect, plan, build, verify, serve, ask and load-test `tiny`; gives all that was seen.

    Raises `CheckFailedError` when the bundle does not verify or a load test fails.
    """
    progress = progress or Silent()
    started = time.perf_counter()
    facts = inspect("tiny").to_json()
    job = prepare("tiny", GPU, QUANT, Workload(context=4096), out)
    built = build(job, progress)
    checks = verify(job.out, progress)
    failed = [check for check in checks if not check.ok]
    if failed:
        raise CheckFailedError(f"{job.out}: {failed[0].name}: {failed[0].detail}")
    bundle = Bundle.open(job.out)
    progress.step("start tritonserver")
    begun = time.perf_counter()
    with serving(bundle, executor="reference") as server:
        ready = time.perf_counter() - begun
        progress.step("ask")
        answers = [
            {"prompt": question.text, "expected": question.answer,
             "answer": "".join(ask(server.grpc_url, bundle.model_name, question.text))}
            for question in text.prompts(1, QUESTIONS, split="heldout")
        ]  # fmt: skip
        report = _load(server.grpc_url, bundle, progress)
    kept = keep(bundle, report)
    if report.aborted:
        raise CheckFailedError(f"load test: {report.aborted}")
    return {
        "inspect": facts,
        "training": json.loads((TINY / "training.json").read_text(encoding="utf-8")),
        "plan": {
            "rule": job.plan.rule,
            "status": job.plan.status,
            "backend": job.plan.engine.backend,
        },
        "build": built,
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks],
        "ready_s": ready,
        "answers": answers,
        "loadtest": report.to_json(),
        "report": str(kept),
        "seconds": time.perf_counter() - started,
        "next": next_commands(),
    }


def _load(url: str, bundle: Bundle, progress: Progress) -> load.Report:
    config = load.LoadTest(
        prompts=built_in_prompts(),
        model=bundle.model_name,
        concurrencies=CONCURRENCIES,
        max_tokens=32,
        count_tokens=token_counter(bundle),
    )
    return load.run(url, config, on_progress=show_levels(progress))


def next_commands() -> list[str]:
    """The two commands one runs for the real model."""
    return [
        f"hf download {DEFAULT_CHECKPOINT} --local-dir nano",
        f"nemo-deploy build --gpu {GPU} --quant {QUANT} --checkpoint nano",
    ]
