"""All engines. A new engine is a folder beside this file and one line in `ENGINES`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ...core.checks import Check
from ...core.errors import UsageError
from .base import Engine
from .tensorrt_llm.engine import TensorRtLlm

DEFAULT: Final = "tensorrt-llm"

ENGINES: Final[Mapping[str, Callable[[str | None], Engine]]] = {
    "tensorrt-llm": TensorRtLlm,
}
"""What makes each engine at a version, or at the version that bundles are built for (None)."""


def engine(name: str = DEFAULT, version: str | None = None) -> Engine:
    """The engine of that name. Raises `UsageError` for an unknown name or version."""
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}; known are {', '.join(ENGINES)}")
    return ENGINES[name](version)


def check(directory: Path) -> list[Check]:
    """Check the engine directory of a bundle, by the engine that its `engine.json` names."""
    path = directory / "engine.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return engine(record["engine"]).check(directory)
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        return [Check("engine", False, f"{path}: {error}")]
