"""Choose and start the executor of a bundle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from .generation import Executor, StartError
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


def create_executor(settings: Settings) -> Executor:
    """Start the executor, which loads the weights. Raises `StartError`."""
    arguments = read_llm_args(settings.bundle)
    if settings.executor == "reference":
        from .executors.reference import ReferenceExecutor

        return ReferenceExecutor(
            settings.checkpoint,
            max_active=settings.max_active,
            max_tokens=arguments.get("max_seq_len"),
        )
    if settings.executor == "scripted":
        from .executors.scripted import ScriptedExecutor

        if settings.script is None:
            raise StartError(f"the executor scripted needs a file of answers: see ${SCRIPT.name}")
        return ScriptedExecutor(
            settings.checkpoint,
            settings.script,
            max_active=settings.max_active,
            max_tokens=arguments.get("max_seq_len"),
        )
    from .executors.trtllm import TrtllmExecutor

    return TrtllmExecutor(settings.bundle, arguments, read_engine(settings.bundle))


def read_engine(bundle: Path) -> dict[str, Any]:
    """`engine/engine.json`: the GPU and the TensorRT-LLM versions that the bundle was built for."""
    path = bundle / "engine" / "engine.json"
    try:
        return _mapping(path, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise StartError(f"{path}: cannot be read: {error}") from error


def read_llm_args(bundle: Path) -> dict[str, Any]:
    """`engine/llm_args.yaml`: keyword arguments of `tensorrt_llm.LLM`, without `model`."""
    path = bundle / "engine" / "llm_args.yaml"
    try:
        return _mapping(path, read_yaml_document(path))
    except (OSError, ValueError) as error:
        raise StartError(f"{path}: cannot be read: {error}") from error


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


def _mapping(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StartError(f"{path}: must contain a mapping")
    return value


def _count(parameters: Mapping[str, str], name: str) -> int:
    text = parameters.get(name, "")
    if not text.isdecimal() or int(text) < 1:
        raise StartError(
            f"config.pbtxt: parameter `{name}` must be a whole number above 0, got {text!r}"
        )
    return int(text)
