"""`loadtest`: a running server by its address, or a bundle that is served here for the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from .. import loadtest as load
from ..core.bundle import Bundle
from ..core.errors import UsageError
from ..core.files import locked
from ..core.progress import Progress, Silent
from ..model.catalog import text
from .serve import serving
from .trust import require_trusted, trusted_note

BUILT_IN_PROMPTS: Final = 64


def built_in_prompts() -> tuple[str, ...]:
    """Generated prompts in the format that `tiny` was trained on: short, the same every time."""
    return tuple(prompt.text for prompt in text.prompts(0, BUILT_IN_PROMPTS))


def loadtest(
    target: str,
    config: load.LoadTest,
    progress: Progress | None = None,
    *,
    verify: str = "quick",
    trust_code: bool = False,
) -> tuple[load.Report, Path | None]:
    """Load `target`, a bundle directory or `grpc://host:port`.

    A bundle is served on this machine for the test, tokens are counted with its own tokenizer, and
    the report is kept in its `report/`; gives the report and where it was kept. Raises as
    `require_trusted` before anything of the bundle runs.
    """
    progress = progress or Silent()
    if not Path(target).is_dir():
        if "/" in target.removeprefix("grpc://"):
            raise UsageError(f"{target}: neither a bundle directory nor grpc://host:port")
        return load.run(target, config, on_progress=show_levels(progress)), None
    bundle = Bundle.open(Path(target))
    trusted = require_trusted(bundle, verify, trust_code, progress)
    if trusted:
        progress.step(trusted_note(trusted))
    config = replace(
        config, model=config.model or bundle.model_name, count_tokens=token_counter(bundle)
    )
    progress.step("start tritonserver")
    with serving(bundle) as server:
        report = load.run(server.grpc_url, config, on_progress=show_levels(progress))
    return report, keep(bundle, report)


def keep(bundle: Bundle, report: load.Report) -> Path:
    """Write `report` into the bundle and record it there."""
    name = f"loadtest-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.json"
    content: dict[str, Any] = report.to_json()
    with locked(bundle.path):
        current = Bundle.open(bundle.path)
        return current.add_report(name, (json.dumps(content, indent=2) + "\n").encode())


def token_counter(bundle: Bundle) -> Callable[[str], int] | None:
    """Counts tokens with the bundle's tokenizer; None where it has no `tokenizer.json`."""
    path = bundle.checkpoint / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return lambda value: len(tokenizer.encode(value, add_special_tokens=False).ids)


def show_levels(progress: Progress) -> Callable[[load.Progress], None]:
    """Pass a load test's progress on, one step a level."""
    shown: dict[int, Callable[[int], None]] = {}

    def show(state: load.Progress) -> None:
        if state.index not in shown:
            shown[state.index] = progress.step(str(state.level), state.level.requests, "requests")
        shown[state.index](state.done)

    return show


def levels(text: str) -> tuple[int, ...]:
    """`1,2,4` as numbers of clients at once. Raises `UsageError`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--concurrency {text!r}: give whole numbers, for example 1,2,4") from None
