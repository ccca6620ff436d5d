"""Stored kernels on a serving node, with a driver that is a fake: what it is told is recorded.

`test_the_real_calls` goes through ctypes into a library built from C against the real cuda.h. As in
the real driver (seen with R580 on an H200), no context is current in a thread until one is made so,
and loading or launching without one fails with CUDA_ERROR_INVALID_CONTEXT (201).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from nemotron_deploy.build.kernels import driver, launch, load, source, steps
from nemotron_deploy.build.kernels import store as stores

SHAPE = steps.Shape(hidden=128, width=64, experts=2, top_k=2, group=64)
BYTES = b"\x7fELF of a fake"


class FakeDriver:
    """Records what it is asked to load and to launch."""

    def __init__(self) -> None:
        self.loaded: list[tuple[bytes, str, int]] = []
        self.launched: list[tuple[Any, ...]] = []

    def cuda_version(self) -> tuple[int, int]:
        return 12, 4

    def load(self, cubin: bytes, symbol: str, shared: int) -> int:
        self.loaded.append((cubin, symbol, shared))
        return 1000 + len(self.loaded)

    def prepare(self, *fixed: Any) -> driver.Launch:
        def launch(stream: int, given: list[int]) -> None:
            self.launched.append((*fixed, stream, list(given)))

        return launch


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store as `aot.build` writes it, without machine code: one kernel for `up` of one token."""
    plan = steps.routed(SHAPE, 1, 90)
    step = next(step for step in plan.steps if step.kernel == "grouped")
    types = steps.operand_types(step, plan, "bf16")
    (tmp_path / "grouped-1.cubin").write_bytes(BYTES)
    record = stores.variant(step, types) | {
        "file": "grouped-1.cubin",
        "sha256": hashlib.sha256(BYTES).hexdigest(),
        "symbol": "grouped",
        "parameters": ["u64"] * 6 + ["u32"] * 3 + ["u64"] * 2,
        "shared_bytes": 16_640,
    }
    index = {
        "format": source.FORMAT,
        "sm": 90,
        "source": source.source_digest(),
        "ptxas": "12.9",
        "lowest_driver": "525.60.13",
        "kernels": [record],
    }
    (tmp_path / stores.INDEX).write_text(json.dumps(index))
    return tmp_path


def change(store: Path, **entries: object) -> None:
    path = store / stores.INDEX
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.fixture(autouse=True)
def _no_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launch, "_stores", {})
    launch._bound.cache_clear()
    yield
    launch._bound.cache_clear()


def test_a_stored_kernel_is_launched_with_its_arguments(store: Path) -> None:
    fake = FakeDriver()
    opened = load.open_store(store, driver=fake, sm=90)
    assert opened is not None
    assert fake.loaded == [(BYTES, "grouped", 16_640)]
    plan = steps.routed(SHAPE, 1, 90)
    step = next(step for step in plan.steps if step.kernel == "grouped")
    bound = opened.bind(step, steps.operand_types(step, plan, "bf16"))
    assert bound is not None
    bound(0xABCDEF012345, [1, 2, 3])
    assert fake.launched == [(1001, step.programs, 64, 16_640, 11, True, 0xABCDEF012345, [1, 2, 3])]


def test_a_call_launches_each_step_with_pointers_and_numbers(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kernel is stored and the others are compiled, in the order of the steps."""
    fake = FakeDriver()
    opened = load.open_store(store, driver=fake, sm=90)
    assert opened is not None
    launch.use(opened, None)
    compiled: list[str] = []
    monkeypatch.setattr(
        launch, "_launch_compiled", lambda step, values: compiled.append(step.kernel)
    )
    plan = steps.routed(SHAPE, 1, 90)
    names = ("up", "up_scale", "down", "down_scale", "expert_ids", "expert_weights", "out")
    tensors = {name: torch.zeros(64) for name in names}
    tensors["hidden"] = torch.zeros(1, 128, dtype=torch.bfloat16)
    launch.run(plan, tensors, first_expert=-3)
    launch.run(plan, tensors, first_expert=-3)
    assert compiled == ["place", "grouped", "combine"] * 2, "only `up` is stored"
    first, second = (given[-1] for given in fake.launched)
    x, words, scale, _, _, _, *numbers = first
    assert (x, words, scale) == tuple(
        tensors[name].data_ptr() for name in ("hidden", "up", "up_scale")
    )
    assert numbers == [2, -3, 2, 0, 0], "rows, first_expert, num_experts, Triton's scratch memory"
    assert len(second) == len(first)


def test_what_is_not_stored_is_left_to_the_compiler(store: Path) -> None:
    fake = FakeDriver()
    opened = load.open_store(store, driver=fake, sm=90)
    assert opened is not None
    plan = steps.routed(SHAPE, 1, 90)
    combine = plan.steps[-1]
    assert opened.bind(combine, steps.operand_types(combine, plan, "bf16")) is None
    step = plan.steps[0]
    assert opened.bind(step, steps.operand_types(step, plan, "fp16")) is None


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"sm": 80}, "compiled for SM 80, this device is SM 90"),
        ({"source": "0" * 64}, "another version of the kernels"),
        ({"format": 99}, "format 99"),
    ],
)
def test_a_store_for_something_else_is_passed_over_and_says_so(
    store: Path, entries: dict[str, object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    change(store, **entries)
    fake = FakeDriver()
    with caplog.at_level(logging.WARNING):
        assert load.open_store(store, driver=fake, sm=90) is None
    (line,) = caplog.messages
    assert reason in line
    assert "compiling here" in line
    assert not fake.loaded


def test_a_driver_that_does_not_take_it_is_said(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise driver.DriverError(
            "cuModuleLoadData failed: CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222)"
        )

    fake = FakeDriver()
    monkeypatch.setattr(fake, "load", refuse)
    assert load.open_store(store, driver=fake, sm=90) is None
    assert "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" in caplog.text


def test_a_driver_older_than_the_machine_code_is_named(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(store, ptxas="13.4", lowest_driver="580.65.06")
    assert load.open_store(store, driver=FakeDriver(), sm=90) is None
    assert "need driver 580.65.06 or later, and this one is of CUDA 12.4" in caplog.text


def test_a_damaged_store_is_refused(store: Path) -> None:
    (store / "grouped-1.cubin").write_bytes(BYTES + b"?")
    with pytest.raises(stores.StoreError, match=r"grouped-1\.cubin.*digest differs"):
        load.open_store(store, driver=FakeDriver(), sm=90)
    (store / "grouped-1.cubin").unlink()
    with pytest.raises(stores.StoreError, match="cannot be read"):
        load.open_store(store, driver=FakeDriver(), sm=90)
    record = json.loads((store / stores.INDEX).read_text())["kernels"][0]
    change(store, kernels=[record | {"file": "../elsewhere.cubin"}])
    with pytest.raises(stores.StoreError, match="no plain file name"):
        load.open_store(store, driver=FakeDriver(), sm=90)
    (store / stores.INDEX).write_text("{")
    with pytest.raises(stores.StoreError, match=r"kernels\.json: cannot be read"):
        load.open_store(store, driver=FakeDriver(), sm=90)


def test_without_a_driver_there_is_one_line() -> None:
    with pytest.raises(driver.DriverError, match="no CUDA driver here"):
        driver.CudaDriver(library="libcuda-that-is-not-there.so")


LIBRARY = """
#include <stdint.h>
#include <string.h>
#include <cuda.h>
uint64_t seen[32];
static _Thread_local CUcontext current;
static const CUcontext primary = (CUcontext)0x7f0000000033;
CUresult cuDriverGetVersion(int *version) { *version = 12040; return 0; }
CUresult cuInit(unsigned flags) { return flags; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = 40 + ordinal; return 0; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    *context = primary;
    return device == 43 ? 0 : 101;
}
CUresult cuCtxPushCurrent_v2(CUcontext context) { current = context; return 0; }
CUresult cuCtxPopCurrent_v2(CUcontext *context) { *context = current; current = 0; return 0; }
CUresult cuCtxSetCurrent(CUcontext context) { current = context; return 0; }
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    if (current != primary) return 201;
    *module = (CUmodule)0x7f0000000011;
    return memcmp(image, "good", 4) ? 209 : 0;
}
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    *function = (CUfunction)0x7f0000000022;
    return module == (CUmodule)0x7f0000000011 && !strcmp(name, "grouped") ? 0 : 500;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    seen[30] = attribute; seen[31] = value;
    return function != (CUfunction)0x7f0000000022;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction function, void **params,
                          void **extra) {
    if (current != primary) return 201;
    uint64_t told[] = {(uint64_t)function, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX,
                       c->blockDimY, c->blockDimZ, c->sharedMemBytes, (uint64_t)c->hStream,
                       *(uint64_t *)params[0], *(uint32_t *)params[1], (uint64_t)extra,
                       c->numAttrs, 0, 0};
    if (c->numAttrs) {
        told[13] = c->attrs[0].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        told[14] = c->attrs[0].value.programmaticStreamSerializationAllowed;
    }
    memcpy(seen, told, sizeof told);
    return 0;
}
CUresult cuGetErrorName(CUresult status, const char **name) {
    *name = "CUDA_ERROR_OF_A_FAKE";
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc for the fake libcuda")
def test_the_real_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "cuda.c"
    source.write_text(LIBRARY)
    library = tmp_path / "libcuda.so"
    import triton  # after its interpreter is chosen

    header = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    command: list[str | Path] = [
        "gcc",
        "-Wall",
        "-Werror",
        "-I",
        header,
        "-shared",
        "-fPIC",
        "-o",
        library,
        source,
    ]
    subprocess.run(command, check=True)
    cuda = driver.CudaDriver(3, str(library))
    assert cuda.cuda_version() == (12, 4)
    function = cuda.load(b"good", "grouped", 65_536)
    seen = (ctypes.c_uint64 * 32).in_dll(cuda._cuda, "seen")
    assert (seen[30], seen[31]) == (driver.MAX_DYNAMIC_SHARED, 65_536)
    queue = cuda.prepare(function, 174, 64, 65_536, 2)
    queue(0xABCDEF012345, [0x7F1122334455, -1])
    expected = [
        0x7F0000000022, 174, 1, 1, 64, 1, 1, 65_536, 0xABCDEF012345, 0x7F1122334455, 0xFFFFFFFF, 0,
    ]  # fmt: skip
    assert list(seen[:12]) == expected
    assert list(seen[12:15]) == [0, 0, 0]
    cuda.prepare(function, 174, 64, 65_536, 2, overlaps=True)(0xABCDEF012345, [0x7F1122334455, -1])
    assert list(seen[:15]) == [*expected, 1, 1, 1]
    with monkeypatch.context() as older:
        older.setattr(driver, "_OVERLAP_SINCE", (12, 5))
        cuda.prepare(function, 174, 64, 65_536, 2, overlaps=True)(0, [1, 2])
    assert list(seen[12:15]) == [0, 0, 0]
    with ThreadPoolExecutor(1) as pool:  # a thread in which no context is current
        pool.submit(cuda.prepare(function, 1, 32, 0, 2), 0, [1, 2]).result()
    assert list(seen[:3]) == [0x7F0000000022, 1, 1]
    with pytest.raises(ValueError, match="same size"):
        queue(0, [1])
    with pytest.raises(driver.DriverError, match=r"cuModuleLoadData .*OF_A_FAKE \(209\)"):
        cuda.load(b"bad!", "grouped", 0)
    with pytest.raises(driver.DriverError, match="cuModuleGetFunction failed"):
        cuda.load(b"good", "other", 0)
