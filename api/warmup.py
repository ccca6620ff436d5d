"""`warmup`: on the node that is to serve, before traffic comes: fill caches, check the outputs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..core.bundle import Bundle
from ..core.errors import BadInputError, CheckFailedError
from ..core.extras import require
from ..core.progress import Progress, Silent
from ..core.result import Result
from .serve import chosen_executor
from .trust import require_trusted


@dataclass(frozen=True, slots=True)
class WarmupResult(Result):
    """What a warm-up did.

    Attributes:
        bundle: The bundle's directory.
        executor: What generates tokens here.
        start_s: Seconds until it had started.
        caches: Where it keeps what it compiled, by environment variable.
        golden: What `runtime.startup_check.Proof` holds: whether outputs were `checked` or
            `not_checked`, and how far they are from the golden outputs, or from this node's own
            baseline.
        trusted_code: Files of the bundle whose code differs from what this version writes.
        ok: Whether no output is wrong and, with `require_golden`, outputs were checked.
    """

    SCHEMA: ClassVar[int] = 2

    bundle: Path
    executor: str
    start_s: float
    caches: dict[str, str]
    golden: dict[str, Any]
    trusted_code: tuple[str, ...]
    ok: bool


def warmup(
    path: Path,
    executor: str = "auto",
    cache: Path | None = None,
    progress: Progress | None = None,
    *,
    verify: str = "quick",
    trust_code: bool = False,
    require_golden: bool = False,
) -> WarmupResult:
    """Start the bundle's executor as its server would, and compare it with the golden outputs.

    Starting tunes and compiles kernels and captures CUDA graphs, into `cache` (by default where a
    server on this node looks), in a process of its own. With `require_golden`, a bundle without
    golden outputs counts as a failed check: one that was not checked is not known to be right.
    Raises as `require_trusted` before
    anything of the bundle runs, `UsageError` for an unknown executor, `BadInputError` for a cache
    that cannot be written, `CheckFailedError` for a bundle that does not start.
    """
    from ..runtime import contract, startup_check

    progress = progress or Silent()
    bundle = Bundle.open(path)
    name = chosen_executor(bundle, executor)
    if name == "reference":
        require("torch", "transformers", "safetensors", purpose="the reference executor")
    where = cache.absolute() if cache else startup_check.cache_directory()
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{where}: cannot be created: {error.strerror}") from error
    trusted = require_trusted(bundle, verify, trust_code, progress)
    caches = {
        variable: os.environ.get(variable, path)
        for variable, path in contract.engine_caches(str(where), name).items()
    }
    environment = {**contract.child_environment(), **contract.OFFLINE, **caches}
    environment[contract.CACHE.name] = str(where)
    seen = _run(bundle.path.absolute(), name, environment, progress)
    golden = seen["golden"]
    if require_golden and golden["action"] == "not_checked":
        golden["faults"].append("golden outputs were not checked, and --require-golden demands it")
    return WarmupResult(
        bundle=path,
        executor=name,
        start_s=seen["start_s"],
        caches=caches,
        golden=golden,
        trusted_code=trusted,
        ok=not golden["faults"],
    )


def _run(
    bundle: Path, executor: str, environment: dict[str, str], progress: Progress
) -> dict[str, Any]:
    """Run `runtime/warmup.py`; gives its result. Raises `CheckFailedError` with its error.

    It has a process group of its own, since engines start processes, which must end with it.
    """
    from ..runtime import isolation, warmup

    result: dict[str, Any] = {}
    command = isolation.command(warmup.__name__, str(bundle), executor)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                answer = json.loads(line)
                if "step" in answer:
                    progress.step(answer["step"])
                else:
                    result = answer
            # Not reaped yet, so that the number of its group cannot be another one's.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    if "error" in result:
        raise CheckFailedError(result["error"])
    if not result:
        raise CheckFailedError(
            f"{bundle}: the executor {executor} ended early, with status {process.returncode}; see "
            "its output above"
        )
    return result
