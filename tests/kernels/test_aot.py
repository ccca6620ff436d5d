"""Compiled ahead of time, for every SM version, without a GPU; and what the checks refuse.

Worker processes compile, as in `build`: Triton interprets in this one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.build.kernels import aot, configs, machine, steps, store

NANO = steps.Shape(2688, 1856, 128, top_k=6, group=64, routes=128, scale_divisor=7)
SHARED = steps.Shape(2688, 3712, 1, top_k=1, group=64, scale_divisor=7)
FP32_SCALES = replace(NANO, routes=0, scale_divisor=0)

SMALL = steps.Shape(1056, 800, 5, 2, 32)
HALVES = steps.Shape(2688, 1856, 128, 6, 32, scale_divisor=7)
WIDE = steps.Shape(1024, 1280, 512, 22, 128, routes=512)
"""As many experts as Super has."""

WIDE_SHARED = steps.Shape(1024, 2560, 1, 1, 128)
TINY = steps.Shape(128, 192, 12, 2, 64)

NANO_INT8 = replace(NANO, bits=8, scale_divisor=127)
NANO_INT8_ROWS = replace(NANO, bits=8, group=0, scale_divisor=0)

WORKERS = 2


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stores: Nano for each SM version in INT4 and INT8, and some other shapes."""
    folder = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder / "cache"))
        for sm in (80, 90):
            aot.build(folder / str(sm), NANO, sm, workers=WORKERS)
            aot.build(folder / f"fp32-scales-{sm}", FP32_SCALES, sm, workers=WORKERS)
        for sm in (86, 89):  # the tiles of 80: one decode size shows that their target is accepted
            aot.build(folder / str(sm), NANO, sm, most_tokens=2, workers=WORKERS)
        few: Any = {"workers": WORKERS, "most_tokens": 2}
        aot.build(folder / "halves", HALVES, 80, workers=WORKERS)
        for sm in (80, 90):
            aot.build(folder / f"int8-{sm}", NANO_INT8, sm, workers=WORKERS)
        for sm in (86, 89):
            aot.build(folder / f"int8-{sm}", NANO_INT8, sm, **few)
        aot.build(
            folder / "int8-halves", replace(HALVES, bits=8, scale_divisor=127), 80, workers=WORKERS
        )
        aot.build(folder / "int8-rows", NANO_INT8_ROWS, 80, workers=WORKERS)
        aot.build(folder / "small", SMALL, 90, dtypes=("fp16",), **few)
        aot.build(folder / "wide", WIDE, 90, shared_shapes=[WIDE_SHARED], workers=WORKERS)
        aot.build(folder / "tiny", TINY, 80, **few)
    return folder


def products(folder: Path) -> list[dict[str, Any]]:
    return [k for k in store.read_index(folder)["kernels"] if k["kernel"] == "grouped"]


@pytest.mark.parametrize("sm", sorted(configs.SHARED_LIMIT))
@pytest.mark.parametrize("name", ["{}", "int8-{}"])
def test_every_kernel_keeps_within_its_gpu(stores: Path, name: str, sm: int) -> None:
    folder = stores / name.format(sm)
    index = store.read_index(folder)
    assert index["sm"] == sm
    assert index["run_on_a_gpu"] is False
    assert index["ptxas"].startswith("12.")
    assert index["lowest_driver"] == "525.60.13"
    for record in index["kernels"]:
        assert record["local_bytes"] == 0
        used = record["shared_bytes"] + record["static_shared_bytes"]
        assert used <= configs.SHARED_LIMIT[sm]
        assert 32 * record["warps"] * record["registers"] <= configs.REGISTERS
        cubin = store.read_cubin(folder, record)
        assert cubin[:4] == b"\x7fELF"
        # The ELF ABI version that CUDA 12's assembler writes; CUDA 13's, which needs its own
        # driver, writes 8.
        assert cubin[8] == 7


@pytest.mark.parametrize("name", ["{}", "int8-{}"])
def test_matrix_instructions_are_the_chosen_ones(stores: Path, name: str) -> None:
    ampere, hopper_store = stores / name.format(80), stores / name.format(90)
    assert {tuple(record["matrix"]) for record in products(ampere)} == {("mma",)}
    hopper = {record["constants"]["BLOCK_M"]: record["matrix"] for record in products(hopper_store)}
    large = {rows: ["wgmma"] for rows in (32, 64, 128)}
    assert hopper == {8: ["mma"], 16: ["mma"]} | large


@pytest.mark.parametrize(
    "store",
    ["80", "86", "89", "90", "fp32-scales-80", "fp32-scales-90", "halves", "small", "wide",
     "int8-80", "int8-86", "int8-89", "int8-90", "int8-halves", "int8-rows"],
)  # fmt: skip
def test_weights_come_sixteen_bytes_at_a_time(stores: Path, store: str) -> None:
    for record in products(stores / store):
        constants, widths = record["constants"], record["loop_load_widths"]
        threads = 32 * record["warps"]
        step_n = constants["UNROLL"] * constants["SLICES"] * constants["BLOCK_N"]
        words = step_n * 8 * constants["BITS"]
        if not widths:  # so few steps that the compiler leaves no loop
            assert constants["K"] <= 8 * 64 * constants["UNROLL"] * constants["SLICES"]
            continue
        assert widths["16"] * 16 * threads >= words
        narrow = sum(int(width) * times for width, times in widths.items() if width != "16")
        # Scales are narrow, and several threads may load one; with the weights it would be more.
        assert narrow * threads <= words, "what is narrow is too little to be the weights"


@pytest.mark.parametrize("sm", [80, 90])
def test_whatever_is_launched_is_compiled(sm: int) -> None:
    compiled = {
        store.identity(step, types)
        for step, types, _ in aot.variants(NANO, [SHARED], sm, ["bf16"], aot.MOST_TOKENS)
    }
    given = replace(NANO, routes=0)
    for tokens in (1, 2, 4, 5, 8, 9, 16, 17, 21, 22, 64, 85, 86, 300, 4096, aot.MOST_TOKENS):
        for plan in (
            steps.routed(NANO, tokens, sm),
            steps.routed(given, tokens, sm),
            steps.shared(SHARED, tokens, sm),
        ):
            for step in plan.steps:
                types = steps.operand_types(step, plan, "bf16")
                assert store.identity(step, types) in compiled


def test_launches_overlap_from_sm_90_on(stores: Path) -> None:
    """Whoever is compiled for it has passed `order_faults`."""
    for sm in (80, 90):
        records = store.read_index(stores / str(sm))["kernels"]
        assert {record["constants"]["OVERLAP"] for record in records} == {int(sm == 90)}
        for tokens in (1, 12, 64):
            first, *others = steps.routed(NANO, tokens, sm).steps
            assert not first.overlaps, "what runs before it is not ours"
            assert {step.overlaps for step in others} == {sm == 90}


WAIT, LEAVE, STORE = (
    "griddepcontrol.wait;",
    "griddepcontrol.launch_dependents;",
    "st.global.b32 [a];",
)


@pytest.mark.parametrize(
    ("ptx", "overlaps", "fault"),
    [
        ((WAIT, LEAVE, STORE), True, None),
        ((STORE,), False, None),
        ((STORE, WAIT, LEAVE), True, "writes before it waits"),
        ((LEAVE, WAIT, STORE), True, "lets the next launch start before it waits"),
        ((LEAVE, STORE), True, "does not wait"),
        ((WAIT, STORE), False, "waits for a launch that it does not overlap"),
        ((WAIT, "red.global.add.u32 [a];", LEAVE, STORE), True, None),
        (("atom.global.add.u32 r, [a];", WAIT, LEAVE, STORE), True, "writes before it waits"),
    ],
)
def test_what_runs_ahead_of_the_wait(
    ptx: tuple[str, ...], overlaps: bool, fault: str | None
) -> None:
    found = machine.order_faults("\n".join(ptx), overlaps)
    assert found == [] if fault is None else fault in found[0]


def test_compiling_twice_gives_the_same_store(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    told: list[tuple[int, int]] = []
    again = tmp_path / "again"
    aot.build(
        again, NANO, 86, most_tokens=2, workers=WORKERS, on_compiled=lambda *n: told.append(n)
    )
    first = {path.name: path.read_bytes() for path in (stores / "86").iterdir()}
    assert first == {path.name: path.read_bytes() for path in again.iterdir()}
    assert told == [(n, len(told)) for n in range(1, len(told) + 1)]


GOOD = machine.Machine(
    registers=64,
    stack=0,
    local=0,
    static_shared=0,
    spill_instructions=0,
    loop={"HMMA": 8},
    loads={16: 3, 4: 1},
    matrix=("mma",),
)
TILE = {
    "BLOCK_M": 8, "BLOCK_N": 64, "SLICES": 1, "UNROLL": 1, "BITS": 4, "GROUP": 64, "K": 2688,
    "SCALE_DIVISOR": 7,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"local": 8}, "registers spill"),
        ({"stack": 16}, "registers spill"),
        ({"spill_instructions": 2}, "registers spill"),
        ({"static_shared": 90_000}, "shared memory"),
        ({"matrix": ("wgmma",)}, "mma is expected"),
        ({"matrix": ()}, "mma is expected"),
        ({"loads": {16: 2, 4: 1}}, "2 loads of 16 bytes"),
        ({"loads": {16: 3, 4: 9}}, "36 bytes a thread in narrow loads"),
    ],
)
def test_machine_code_that_falls_short_is_refused(change: dict[str, Any], message: str) -> None:
    def found(report: machine.Machine) -> str:
        faults = machine.faults(report, 86, shared=16_640)
        return "; ".join(faults + machine.product_faults(report, "mma", TILE, threads=64))

    assert found(GOOD) == ""
    assert message in found(replace(GOOD, **change))


def test_a_tile_that_spills_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real compiler on a tile known to be too large: nothing is written."""
    monkeypatch.setattr(configs, "_PAIRS", ((float("inf"), configs.Tile(128, 256, 8, 3)),))
    with pytest.raises(machine.MachineError, match="registers spill"):
        aot.build(tmp_path / "store", NANO, 80, most_tokens=1, workers=1)
    assert not (tmp_path / "store").exists()


def test_an_unknown_sm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SM 75 is none of"):
        aot.build(tmp_path / "store", NANO, 75)


KILLED = """
import sys
from pathlib import Path
from nemotron_deploy.build.kernels import aot, steps

def told(done, total):
    print("compiled", flush=True)

if __name__ == "__main__":
    nano = steps.Shape(2688, 1856, 128, 6, 64)
    aot.build(Path(sys.argv[1]), nano, 80, workers=2, on_compiled=told)
"""


def test_no_compiler_outlives_a_killed_build(tmp_path: Path) -> None:
    script = tmp_path / "build_and_die.py"
    script.write_text(KILLED)
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "store"], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [child for child in children if b"spawn_main" in command_of(child)]
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(b"spawn_main" in command_of(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)
    assert not (tmp_path / "store").exists()


def command_of(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
