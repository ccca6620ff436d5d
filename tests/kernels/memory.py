"""A memory checker for kernels under Triton's interpreter.

The interpreter runs programs one after another on raw addresses, so it neither notices a write
beyond a tensor's end nor can it show a race. While `checked()` is on, every launch must

- load and store inside of the tensors that it was given,
- store to no address twice, and
- load nothing that another program of the same launch stored.

A kernel that keeps these rules gives the same result in whatever order its programs run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter

Handle = Any


class Launch:
    """The memory of one launch: what it was given, and which program wrote what."""

    def __init__(self, arguments: tuple[object, ...]) -> None:
        self.tensors = [
            (argument.data_ptr(), argument.data_ptr() + argument.nbytes)
            for argument in arguments
            if isinstance(argument, torch.Tensor)
        ]
        self.writer: dict[int, int] = {}

    def inside(self, pointers: np.ndarray[Any, Any], size: int, what: str) -> None:
        low, high = int(pointers.min()), int(pointers.max()) + size
        if not any(start <= low and high <= stop for start, stop in self.tensors):
            raise AssertionError(f"a {what} of bytes {low} to {high} leaves its tensor")

    def load(self, pointers: np.ndarray[Any, Any], size: int, program: int) -> None:
        self.inside(pointers, size, "load")
        if self.writer:
            for address in np.unique(pointers).tolist():
                if self.writer.get(address, program) != program:
                    raise AssertionError("a program loads what another one of its launch stored")

    def store(self, pointers: np.ndarray[Any, Any], size: int, program: int) -> None:
        self.inside(pointers, size, "store")
        addresses = pointers.tolist()
        if len(set(addresses)) < len(addresses) or self.writer.keys() & set(addresses):
            raise AssertionError("an address is stored to twice")
        self.writer |= dict.fromkeys(addresses, program)


@contextmanager
def checked() -> Iterator[None]:
    """Check every launch in the interpreter until the end of the block."""
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    load, store, call = builder.create_masked_load, builder.create_masked_store, executor.__call__
    launches: list[Launch] = []

    def checking(check: str, pointers: Handle, mask: Handle, builder: Any) -> None:
        touched = pointers.data[np.broadcast_to(mask.data, pointers.data.shape).astype(bool)]
        if touched.size:
            size = pointers.get_element_ty().primitive_bitwidth // 8
            getattr(launches[-1], check)(touched.ravel(), size, builder.grid_idx[0])

    def checked_load(self: Any, pointers: Handle, mask: Handle, *rest: Any) -> Handle:
        checking("load", pointers, mask, self)
        return load(self, pointers, mask, *rest)

    def checked_store(self: Any, pointers: Handle, value: Handle, mask: Handle, *rest: Any) -> Any:
        checking("store", pointers, mask, self)
        return store(self, pointers, value, mask, *rest)

    def checked_call(self: Any, *arguments: Any, **named: Any) -> Any:
        launches.append(Launch(arguments))
        try:
            return call(self, *arguments, **named)
        finally:
            launches.pop()

    builder.create_masked_load = checked_load
    builder.create_masked_store = checked_store
    executor.__call__ = checked_call
    try:
        yield
    finally:
        builder.create_masked_load = load
        builder.create_masked_store = store
        executor.__call__ = call
