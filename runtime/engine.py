"""Choose and start the executor of a bundle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .contract import (
    DEAD,
    EXECUTOR,
    EXECUTORS,
    MAX_WAITING,
    SCRIPT,
    STALL,
    TRUSTING,
    Variable,
)  # fmt: skip
from .errors import StartError
from .generation import Executor
from .yaml_reader import read_yaml_document


@dataclass(frozen=True, slots=True)
class Settings:
    """What `config.pbtxt` and the environment decide."""

    bundle: Path
    executor: str
    max_active: int
    max_waiting: int
    script: Path | None = None
    trusting: bool = False
    stall: float = float(STALL.default)
    dead: float = float(DEAD.default)

    @property
    def checkpoint(self) -> Path:
        """The directory of the bundle's checkpoint."""
        return self.bundle / "checkpoint"


def read_settings(model_directory: Path, parameters: Mapping[str, str]) -> Settings:
    """Settings from the parameters of `config.pbtxt`; `bundle` is relative to `model_directory`.

    Raises `StartError` naming the parameter.
    """
    executor = os.environ.get(EXECUTOR.name) or parameters.get("executor", "")
    if executor not in EXECUTORS:
        raise StartError(
            f"the executor must be one of {', '.join(EXECUTORS)}, got {executor!r}: "
            f"see the parameter `executor` of config.pbtxt and ${EXECUTOR.name}"
        )
    bundle = (model_directory / parameters.get("bundle", "")).resolve()
    if not (bundle / "checkpoint" / "config.json").is_file():
        raise StartError(f"{bundle}: not a bundle: checkpoint/config.json is missing")
    script = os.environ.get(SCRIPT.name)
    return Settings(
        bundle,
        executor,
        _count(parameters, "max_active"),
        _count({**parameters, **_given("max_waiting", MAX_WAITING)}, "max_waiting"),
        Path(script) if script else None,
        os.environ.get(TRUSTING.name, "") not in ("", "0"),
        _seconds(STALL),
        _seconds(DEAD),
    )


@dataclass(frozen=True, slots=True)
class ArgumentsFile:
    """Where a bundle keeps an engine's keyword arguments: the file in `engine/`, and the name of
    the argument that is the context, in tokens."""

    name: str
    context: str


ARGUMENTS: Final[Mapping[str, ArgumentsFile]] = {
    "trtllm": ArgumentsFile("llm_args.yaml", "max_seq_len"),
    "vllm": ArgumentsFile("engine_args.yaml", "max_model_len"),
}
"""By the executor of the engine."""


@dataclass(frozen=True, slots=True)
class EngineArguments:
    """The keyword arguments with which the engine of a bundle starts, and its executor."""

    executor: str
    values: Mapping[str, Any]

    @property
    def context(self) -> int | None:
        """Tokens of a prompt and its answer; None where the checkpoint decides."""
        length = self.values.get(ARGUMENTS[self.executor].context)
        return None if length is None else int(length)


def create_executor(settings: Settings) -> Executor:
    """Start the executor, which loads the weights. Raises `StartError`."""
    return _STARTS[settings.executor](settings, read_arguments(settings.bundle))


def _start_reference(settings: Settings, arguments: EngineArguments) -> Executor:
    from .executors.reference import ReferenceExecutor

    return ReferenceExecutor(
        settings.checkpoint, max_active=settings.max_active, max_tokens=arguments.context
    )


def _start_scripted(settings: Settings, arguments: EngineArguments) -> Executor:
    from .executors.scripted import ScriptedExecutor

    if settings.script is None:
        raise StartError(f"the executor scripted needs a file of answers: see ${SCRIPT.name}")
    return ScriptedExecutor(
        settings.checkpoint,
        settings.script,
        max_active=settings.max_active,
        max_tokens=arguments.context,
    )


def _start_trtllm(settings: Settings, arguments: EngineArguments) -> Executor:
    from .executors.trtllm import TrtllmExecutor

    _require_built_for(settings, arguments)
    return TrtllmExecutor(settings.bundle, arguments.values, read_engine(settings.bundle))


def _start_vllm(settings: Settings, arguments: EngineArguments) -> Executor:
    from .executors.vllm import VllmExecutor

    _require_built_for(settings, arguments)
    return VllmExecutor(settings.bundle, arguments.values, read_engine(settings.bundle))


_STARTS: Final[Mapping[str, Callable[[Settings, EngineArguments], Executor]]] = {
    "trtllm": _start_trtllm,
    "vllm": _start_vllm,
    "reference": _start_reference,
    "scripted": _start_scripted,
}


def _require_built_for(settings: Settings, arguments: EngineArguments) -> None:
    if settings.executor != arguments.executor:
        raise StartError(
            f"{settings.bundle} was built for the executor {arguments.executor}, not for "
            f"{settings.executor}; serve it with that one, or build with the other --engine"
        )


def arguments_file(bundle: Path) -> tuple[str, Path]:
    """The executor that a bundle was built for, and the file with its arguments.

    Raises `StartError`.
    """
    for executor, file in ARGUMENTS.items():
        if (path := bundle / "engine" / file.name).exists():
            return executor, path
    names = " or ".join(file.name for file in ARGUMENTS.values())
    raise StartError(f"{bundle / 'engine'}: has no {names}; build the bundle again")


def read_arguments(bundle: Path) -> EngineArguments:
    """The arguments of a bundle's engine. Raises `StartError`."""
    executor, path = arguments_file(bundle)
    return EngineArguments(executor, _read(path, read_yaml_document))


def read_engine(bundle: Path) -> Mapping[str, Any]:
    """`engine/engine.json`: the GPU and the versions that the bundle was built for.

    Raises `StartError`.
    """
    path = bundle / "engine" / "engine.json"
    return _read(path, lambda path: json.loads(path.read_text(encoding="utf-8")))


def _read(path: Path, read: Callable[[Path], Any]) -> Mapping[str, Any]:
    try:
        value = read(path)
    except (OSError, ValueError) as error:
        raise StartError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise StartError(f"{path}: must contain a mapping")
    return value


def _given(parameter: str, variable: Variable) -> dict[str, str]:
    """The value of a parameter that the environment overrides, where it does."""
    value = os.environ.get(variable.name)
    return {parameter: value} if value else {}


def _seconds(variable: Variable) -> float:
    text = os.environ.get(variable.name) or variable.default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise StartError(f"${variable.name} must be a number of seconds above 0, got {text!r}")
    return seconds


def _count(parameters: Mapping[str, str], name: str) -> int:
    text = parameters.get(name, "")
    if not text.isdecimal() or int(text) < 1:
        raise StartError(
            f"config.pbtxt: parameter `{name}` must be a whole number above 0, got {text!r}"
        )
    return int(text)
