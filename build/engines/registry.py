"""All engines. A new engine is a folder beside this file and one line in a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from ...core.checks import Check
from ...core.errors import BadInputError, UsageError
from .base import Engine, PlannedEngine
from .sglang.engine import Sglang
from .tensorrt_llm.engine import TensorRtLlm
from .vllm.engine import Vllm

DEFAULT: Final = "tensorrt-llm"

AUTO: Final = "auto"
"""As a value of `--engine`: the default one, or another that needs nothing unproven."""

Makes = TypeVar("Makes", bound=Callable[[str | None], PlannedEngine])

ENGINES: Final[Mapping[str, Callable[[str | None], Engine]]] = {
    "tensorrt-llm": TensorRtLlm,
    "vllm": Vllm,
}
"""What makes each engine at a version, or at the version that bundles are built for (None)."""

ONLY_PLANNED: Final[Mapping[str, Callable[[str | None], PlannedEngine]]] = {"sglang": Sglang}
"""Engines for which nothing is built."""


def engine(name: str = DEFAULT, version: str | None = None) -> Engine:
    """The engine of that name, which bundles can be built for. Raises `UsageError` for an unknown
    name or version."""
    return _named(ENGINES, name)(version)


def planned(name: str = DEFAULT, version: str | None = None) -> PlannedEngine:
    """The engine of that name, which may be one that is planned only. Raises `UsageError` for an
    unknown name or version."""
    return _named({**ENGINES, **ONLY_PLANNED}, name)(version)


def require_known(name: str) -> None:
    """Raise `UsageError` for a value of `--engine` that is unknown."""
    if name != AUTO:
        planned(name)


def _named(engines: Mapping[str, Makes], name: str) -> Makes:
    if name in engines:
        return engines[name]
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), [*engines, AUTO], 1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    raise UsageError(f"unknown engine {name!r}; known are {', '.join(engines)}{suggestion}")


def built_for(directory: Path) -> Engine:
    """The engine that the `engine.json` of an engine directory names. Raises `BadInputError`."""
    path = directory / "engine.json"
    try:
        return engine(json.loads(path.read_text(encoding="utf-8"))["engine"])
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise BadInputError(f"{path}: {error}") from error


def check(directory: Path) -> list[Check]:
    """Check the engine directory of a bundle, by the engine that its `engine.json` names."""
    try:
        return built_for(directory).check(directory)
    except BadInputError as error:
        return [Check("engine", False, str(error))]
