"""Just enough of the CUDA driver API to load cubins and launch them, through ctypes.

The functions and their arguments are those of cuda.h (CUDA Driver API reference: Module
Management, Execution Control). Neither triton nor a compiler is needed. The caller's CUDA context
must be current, as it is once torch has touched the device.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_uint, c_uint32, c_void_p
from typing import Final, Protocol

MAX_DYNAMIC_SHARED: Final = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"""

_UNASKED: Final = 48 * 1024
"""Shared memory a block may use without asking for more."""


class DriverError(RuntimeError):
    """The CUDA driver refused; the message names the call and the driver's own reason."""


class Driver(Protocol):
    """What a store of kernels needs."""

    def load(self, cubin: bytes, symbol: str, shared: int) -> int:
        """A handle for the kernel `symbol` of `cubin`, good for `shared` bytes a block."""

    def launch(
        self,
        function: int,
        programs: int,
        threads: int,
        shared: int,
        stream: int,
        arguments: tuple[int, ...],
        parameters: tuple[str, ...],
    ) -> None:
        """Queue `function` on `stream`; `parameters` gives each argument's type, u64 or u32."""


class CudaDriver:
    """The driver in `library`, libcuda.so.1 where nothing else is said."""

    def __init__(self, library: str = "libcuda.so.1") -> None:
        try:
            self._cuda = ctypes.CDLL(library)
        except OSError as error:
            raise DriverError(f"no CUDA driver here: {error}") from error
        # A pointer that is not declared one is cut to 32 bits.
        self._cuda.cuLaunchKernel.argtypes = [
            c_void_p, *[c_uint] * 7, c_void_p, c_void_p, c_void_p,
        ]  # fmt: skip
        self._cuda.cuModuleLoadData.argtypes = [c_void_p, c_char_p]
        self._cuda.cuModuleGetFunction.argtypes = [c_void_p, c_void_p, c_char_p]
        self._cuda.cuFuncSetAttribute.argtypes = [c_void_p, c_int, c_int]
        self._cuda.cuGetErrorName.argtypes = [c_int, c_void_p]

    def load(self, cubin: bytes, symbol: str, shared: int) -> int:
        """A handle for the kernel `symbol` of `cubin`, good for `shared` bytes a block."""
        module, function = c_void_p(), c_void_p()
        self._call("cuModuleLoadData", byref(module), cubin)
        self._call("cuModuleGetFunction", byref(function), module, symbol.encode())
        if shared > _UNASKED:
            self._call("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED, shared)
        if function.value is None:
            raise DriverError(f"cuModuleGetFunction gave no function for {symbol}")
        return function.value

    def launch(
        self,
        function: int,
        programs: int,
        threads: int,
        shared: int,
        stream: int,
        arguments: tuple[int, ...],
        parameters: tuple[str, ...],
    ) -> None:
        """Queue `function` on `stream`; `parameters` gives each argument's type, u64 or u32."""
        held = [
            c_void_p(value) if kind == "u64" else c_uint32(value & 0xFFFFFFFF)
            for value, kind in zip(arguments, parameters, strict=True)
        ]
        pointers = (c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
        grid, block = (programs, 1, 1), (threads, 1, 1)
        self._call("cuLaunchKernel", function, *grid, *block, shared, stream, pointers, None)

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status:
            told = c_char_p()
            self._cuda.cuGetErrorName(status, byref(told))
            raise DriverError(f"{name} failed: {(told.value or b'?').decode()} ({status})")
