"""`warmup`: on the node that is to serve, before traffic comes: fill caches, check the outputs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ..core.bundle import Bundle
from ..core.errors import BadInputError, CheckFailedError
from ..core.progress import Progress, Silent
from .serve import chosen_executor


def warmup(
    path: Path, executor: str = "auto", cache: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Start the bundle's executor as its server would, and hold it to the golden outputs.

    Starting tunes and compiles kernels and captures CUDA graphs, into `cache` (by default where a
    server on this node looks). Gives what `warmup --json` prints; `ok` says whether outputs are as
    recorded. Raises `UsageError` for an unknown executor, `BadInputError` for a cache that cannot
    be written, `CheckFailedError` for a bundle that is incomplete or does not start.
    """
    from ..runtime import contract, engine, startup_check
    from ..runtime.generation import StartError

    progress = progress or Silent()
    bundle = Bundle.open(path)
    bundle.require_complete()
    name = chosen_executor(bundle, executor)
    if cache is not None:
        os.environ[contract.CACHE.name] = str(cache.absolute())
    where = startup_check.cache_directory()
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{where}: cannot be created: {error.strerror}") from error
    caches = {
        name: os.environ.setdefault(name, path)
        for name, path in contract.engine_caches(str(where)).items()
    }
    settings = engine.Settings(bundle.path.absolute(), name, max_active=1, max_waiting=1)
    begun = time.perf_counter()
    progress.step(f"start the {name} executor")
    try:
        started = engine.create_executor(settings)
    except StartError as error:
        raise CheckFailedError(str(error)) from error
    start_s = time.perf_counter() - begun
    try:
        progress.step("golden")
        proof = startup_check.prove(settings.bundle, started)
    except StartError as error:
        raise CheckFailedError(str(error)) from error
    finally:
        started.close(10.0)
    return {
        "bundle": str(path),
        "executor": name,
        "start_s": start_s,
        "caches": caches,
        "golden": proof.record(),
        "ok": proof.ok,
    }
