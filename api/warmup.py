"""`warmup`: on the node that is to serve, before traffic comes: fill caches, check the outputs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..core.bundle import Bundle
from ..core.errors import BadInputError, CheckFailedError
from ..core.progress import Progress, Silent
from ..core.result import Result
from .serve import chosen_executor


@dataclass(frozen=True, slots=True)
class WarmupResult(Result):
    """What a warm-up did.

    Attributes:
        bundle: The bundle's directory.
        executor: What generates tokens here.
        start_s: Seconds until it had started.
        caches: Where it keeps what it compiled, by environment variable.
        golden: Whether outputs were checked or recorded, and how far they are from those recorded.
        ok: Whether they are as recorded.
    """

    SCHEMA: ClassVar[int] = 1

    bundle: Path
    executor: str
    start_s: float
    caches: dict[str, str]
    golden: dict[str, Any]
    ok: bool


def warmup(
    path: Path, executor: str = "auto", cache: Path | None = None, progress: Progress | None = None
) -> WarmupResult:
    """Start the bundle's executor as its server would, and hold it to the golden outputs.

    Starting tunes and compiles kernels and captures CUDA graphs, into `cache` (by default where a
    server on this node looks). Raises `UsageError` for an unknown executor, `BadInputError` for a
    cache that cannot be written, `CheckFailedError` for a bundle that is incomplete or does not
    start.
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
    return WarmupResult(
        bundle=path,
        executor=name,
        start_s=start_s,
        caches=caches,
        golden=proof.record(),
        ok=proof.ok,
    )
