"""Run a list of steps on tensors: from a stored cubin where one fits, compiled here otherwise."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from .configs import OPTIONS
from .interpreter import interpreting
from .steps import FIRST_EXPERT, Step, Steps, operand_types

log = logging.getLogger(__name__)

_DTYPES = {
    "i32": torch.int32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip
ACTIVATIONS = {torch.bfloat16: "bf16", torch.float16: "fp16"}


class Store(Protocol):
    """Kernels compiled before, ready on this device (`load.py`)."""

    def launch(self, step: Step, types: tuple[str, ...], values: tuple[Tensor | int, ...]) -> bool:
        """Launch on the current stream; False where no stored kernel fits."""


_stores: dict[int, Store] = {}


def use(store: Store, device: int) -> None:
    """Take kernels for device number `device` from `store` from now on."""
    _stores[device] = store


@cache
def sm_of(device: int) -> int:
    """SM version of CUDA device number `device`."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def empty(shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
    """Working memory, not initialized. All of it comes from here, so that tests can poison it."""
    return torch.empty(shape, dtype=dtype, device=like.device)


def run(steps: Steps, tensors: Mapping[str, Tensor], first_expert: int) -> None:
    """Run `steps`, in order, on the current stream; `tensors` by operand name, all aligned."""
    hidden = tensors["hidden"]
    activation = ACTIVATIONS[hidden.dtype]
    named = dict(tensors)
    for name, buffer in steps.buffers.items():
        kind = activation if buffer.dtype == "activation" else buffer.dtype
        named[name] = empty(buffer.shape, _DTYPES[kind], hidden)
    for step in steps.steps:
        values = tuple(_value(operand, named, first_expert) for _, operand in step.operands)
        if not _launch_stored(step, steps, activation, values, hidden):
            _launch_compiled(step, values)


def _value(operand: str | int, named: Mapping[str, Tensor], first_expert: int) -> Tensor | int:
    if isinstance(operand, int):
        return operand
    return first_expert if operand == FIRST_EXPERT else named[operand]


def _launch_stored(
    step: Step, steps: Steps, activation: str, values: tuple[Tensor | int, ...], hidden: Tensor
) -> bool:
    if not hidden.is_cuda or hidden.device.index not in _stores:
        return False
    types = operand_types(step, steps, activation)
    return _stores[hidden.device.index].launch(step, types, values)


def _launch_compiled(step: Step, values: tuple[Tensor | int, ...]) -> None:
    """Through Triton's own compiler and cache; the first launch of a variant compiles it."""
    from . import kernel

    constants = dict(step.constants)
    options: dict[str, Any] = {}
    if not interpreting():
        options = {**OPTIONS, "num_warps": step.warps, "num_stages": step.stages}
        _say_compiling(step)
    if step.kernel == "grouped":
        constants["PORTABLE"] = int(interpreting())
    getattr(kernel, step.kernel)[(step.programs,)](*values, **constants, **options)


@cache
def _said(kernel: str, constants: tuple[tuple[str, int], ...]) -> None:
    log.warning("no stored kernel fits %s %s: compiling it here", kernel, dict(constants))


def _say_compiling(step: Step) -> None:
    """Once per variant."""
    _said(step.kernel, step.constants)
