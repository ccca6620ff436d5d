"""The engine directory: what TensorRT-LLM needs to serve a checkpoint on one kind of GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ....core.checks import Check
from ..directory import EngineFiles
from . import experts
from .arguments import problems
from .support import RULES

FILES: Final = EngineFiles(
    title=RULES.title,
    versions="trtllm_versions",
    arguments="llm_args.yaml",
    takes="tensorrt_llm.LLM()",
    problems=problems,
)


def check(engine: Path) -> list[Check]:
    """Check the engine directory of a bundle: its files, and the plugin and kernels if it has
    them."""
    checks, record = FILES.check(engine)
    if record.get("plugin"):
        checks += experts.check(engine, int(record.get("sm") or 0))
    return checks
