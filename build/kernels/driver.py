"""Just enough of the CUDA driver API to load cubins and launch them, through ctypes.

The functions and their arguments are those of cuda.h (CUDA Driver API reference: Primary Context
Management, Module Management, Execution Control). Neither triton nor a compiler is needed.

The driver API works on the calling thread's current context, and torch makes its own current only
when a call needs the device: a process that has asked for the device's name alone has none, and
neither has a new thread whose memory came from torch's cache. So modules are loaded under the
device's primary context, which is the one torch uses, and a launch that finds no context current
makes that one current.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import Structure, byref, c_char, c_char_p, c_int, c_uint, c_uint64, c_void_p
from typing import Final, Protocol

MAX_DYNAMIC_SHARED: Final = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"""

_INVALID_CONTEXT: Final = 201
"""CUDA_ERROR_INVALID_CONTEXT: no context is current in the calling thread."""

_OVERLAP: Final = 6
"""CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION: the kernel may start before the one before
it on the stream has ended, once that lets it; it waits itself for what it needs."""

_OVERLAP_SINCE: Final = (12, 3)
"""The CUDA version of a driver from which a stream's capture into a graph takes such launches:
graphs have had edges with data since then (CUDA Driver API reference, Graph Management)."""

_UNASKED: Final = 48 * 1024
"""Shared memory a block may use without asking for more."""


Launch = Callable[[int, list[int]], None]
"""Queue a kernel on a stream with these arguments, each 64 bits wide or less: pointers and numbers.
From any thread."""


class _Attribute(Structure):
    """CUlaunchAttribute, with the one member of its union that is used here."""

    _fields_ = (("id", c_int), ("pad", c_char * 4), ("value", c_int), ("rest", c_char * 60))


class _Config(Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared", c_uint),
        ("stream", c_void_p),
        ("attributes", c_void_p),
        ("count", c_uint),
    )


class DriverError(RuntimeError):
    """The CUDA driver refused; the message names the call and the driver's own reason."""


class Driver(Protocol):
    """What a store of kernels needs."""

    def cuda_version(self) -> tuple[int, int]:
        """The newest CUDA version that the driver knows, (major, minor)."""

    def load(self, cubin: bytes, symbol: str, shared: int) -> int:
        """A handle for the kernel `symbol` of `cubin`, good for `shared` bytes a block."""

    def prepare(
        self,
        function: int,
        programs: int,
        threads: int,
        shared: int,
        arguments: int,
        overlaps: bool = False,
    ) -> Launch:
        """A launch of `function` with so many programs, threads a program, bytes of shared memory
        a program, and arguments. `overlaps`: it may start while the launch before it ends."""


class CudaDriver:
    """The driver in `library`, for CUDA device number `device` (as CUDA_VISIBLE_DEVICES counts)."""

    def __init__(self, device: int = 0, library: str = "libcuda.so.1") -> None:
        try:
            self._cuda = ctypes.CDLL(library)
        except OSError as error:
            raise DriverError(f"no CUDA driver here: {error}") from error
        # A pointer that is not declared one is cut to 32 bits.
        self._cuda.cuLaunchKernelEx.argtypes = [c_void_p] * 4
        self._cuda.cuModuleLoadData.argtypes = [c_void_p, c_char_p]
        self._cuda.cuModuleGetFunction.argtypes = [c_void_p, c_void_p, c_char_p]
        self._cuda.cuFuncSetAttribute.argtypes = [c_void_p, c_int, c_int]
        self._cuda.cuGetErrorName.argtypes = [c_int, c_void_p]
        self._cuda.cuDriverGetVersion.argtypes = [c_void_p]
        self._cuda.cuDeviceGet.argtypes = [c_void_p, c_int]
        self._cuda.cuDevicePrimaryCtxRetain.argtypes = [c_void_p, c_int]
        for name in ("cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2", "cuCtxSetCurrent"):
            getattr(self._cuda, name).argtypes = [c_void_p]
        handle, self._context = c_int(), c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", byref(handle), device)
        self._call("cuDevicePrimaryCtxRetain", byref(self._context), handle)

    def cuda_version(self) -> tuple[int, int]:
        """The newest CUDA version that the driver knows, (major, minor)."""
        version = c_int()
        self._call("cuDriverGetVersion", byref(version))
        return version.value // 1000, version.value % 1000 // 10

    def load(self, cubin: bytes, symbol: str, shared: int) -> int:
        """A handle for the kernel `symbol` of `cubin`, good for `shared` bytes a block."""
        module, function = c_void_p(), c_void_p()
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            self._call("cuModuleLoadData", byref(module), cubin)
            self._call("cuModuleGetFunction", byref(function), module, symbol.encode())
            if shared > _UNASKED:
                self._call("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED, shared)
        finally:
            self._call("cuCtxPopCurrent_v2", byref(c_void_p()))
        if function.value is None:
            raise DriverError(f"cuModuleGetFunction gave no function for {symbol}")
        return function.value

    def prepare(
        self,
        function: int,
        programs: int,
        threads: int,
        shared: int,
        arguments: int,
        overlaps: bool = False,
    ) -> Launch:
        """A launch of `function` with so many programs, threads a program, bytes of shared memory
        a program, and arguments. `overlaps`: it may start while the launch before it ends."""
        values = (c_uint64 * arguments)()
        first = ctypes.addressof(values)
        pointers = (c_void_p * arguments)(*range(first, first + 8 * arguments, 8))
        attribute = _Attribute(id=_OVERLAP, value=1)
        config = _Config((programs, 1, 1), (threads, 1, 1), shared)
        overlaps = overlaps and self.cuda_version() >= _OVERLAP_SINCE
        config.attributes, config.count = ctypes.addressof(attribute), int(overlaps)
        # Converted once: that halves the cost of a call through ctypes.
        fixed = (c_void_p(ctypes.addressof(config)), c_void_p(function), pointers, c_void_p())
        queue, lock = self._cuda.cuLaunchKernelEx, threading.Lock()

        def launch(stream: int, given: list[int], _kept: object = attribute) -> None:
            with lock:  # the driver reads the arguments before it returns
                values[:] = given  # type: ignore[assignment]  # an int is taken, too
                config.stream = stream
                status = queue(*fixed)
                if status == _INVALID_CONTEXT:
                    self._call("cuCtxSetCurrent", self._context)
                    status = queue(*fixed)
            if status:
                self._require("cuLaunchKernelEx", status)

        return launch

    def _call(self, name: str, *arguments: object) -> None:
        self._require(name, getattr(self._cuda, name)(*arguments))

    def _require(self, name: str, status: int) -> None:
        if status:
            told = c_char_p()
            self._cuda.cuGetErrorName(status, byref(told))
            raise DriverError(f"{name} failed: {(told.value or b'?').decode()} ({status})")
