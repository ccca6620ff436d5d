"""Run a list of steps on tensors: from a stored cubin where one fits, compiled here otherwise."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from .configs import OPTIONS
from .driver import Launch
from .interpreter import interpreting
from .steps import FIRST_EXPERT, Step, Steps, operand_types

log = logging.getLogger(__name__)

_DTYPES = {
    "i32": torch.int32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16,
}  # fmt: skip
ACTIVATIONS = {torch.bfloat16: "bf16", torch.float16: "fp16"}


class Store(Protocol):
    """Kernels compiled before, ready on this device (`load.py`)."""

    def bind(self, step: Step, types: tuple[str, ...]) -> Launch | None:
        """The launch of `step` with operands of these types; None where no stored kernel fits."""


_stores: dict[int | None, Store] = {}

_SCRATCH: Final = [0, 0]
"""Triton's own last two arguments: scratch memory, which these kernels do not use."""


def use(store: Store, device: int | None) -> None:
    """Take kernels for device number `device` from `store` from now on; None is the CPU, where only
    a stand-in for the driver can be."""
    _stores[device] = store
    _bound.cache_clear()


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
    values: dict[str, int] = {name: tensor.data_ptr() for name, tensor in named.items()}
    values[FIRST_EXPERT] = first_expert
    stream = torch.cuda.current_stream().cuda_stream if hidden.is_cuda else 0
    for step, operands, launch in _bound(steps, activation, hidden.device.index):
        if launch is None:
            _launch_compiled(step, tuple(_operand(o, named, first_expert) for o in operands))
        else:
            given = [o if o.__class__ is int else values[o] for o in operands]  # type: ignore[index]
            launch(stream, given + _SCRATCH)


@lru_cache(maxsize=4096)
def _bound(
    steps: Steps, activation: str, device: int | None
) -> tuple[tuple[Step, tuple[str | int, ...], Launch | None], ...]:
    """Each step with its operands and its stored kernel's launch, looked up once: the host's cost
    of a call is what a batch waits for where no graph replays it."""
    store = _stores.get(device)
    return tuple(
        (
            step,
            tuple(operand for _, operand in step.operands),
            store.bind(step, operand_types(step, steps, activation)) if store else None,
        )
        for step in steps.steps
    )


def _operand(operand: str | int, named: Mapping[str, Tensor], first_expert: int) -> Tensor | int:
    if isinstance(operand, int):
        return operand
    return first_expert if operand == FIRST_EXPERT else named[operand]


def _launch_compiled(step: Step, values: tuple[Tensor | int, ...]) -> None:
    """Through Triton's own compiler and cache; the first launch of a variant compiles it."""
    from . import kernel

    constants = dict(step.constants)
    options: dict[str, Any] = {}
    if not interpreting():
        options = {**OPTIONS, "num_warps": step.warps, "num_stages": step.stages}
        options["launch_pdl"] = step.overlaps
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
