"""What the compiler made: resources and machine instructions of a cubin, without a GPU.

Read with `cuobjdump` from the triton wheel. The loop counted is the innermost one around a matrix
instruction: the step over K.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .configs import SHARED_LIMIT
from .layout import BLOCK_K, FP32_SCALES

_INSTRUCTION: Final = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*?)\s*;")
_RESOURCES: Final = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")

_WRITES: Final = re.compile(r"\b(st|red|atom)\.(\w+\.)*global\b")

MATRIX: Final = {"mma": "HMMA", "wgmma": "HGMMA"}
"""The machine's names of the matrix instructions."""

CONVERSIONS: Final = ("LOP3", "SHF", "PRMT", "HFMA2", "HADD2", "HMUL2", "I2F", "I2FP", "F2F")
"""What turns packed weights into floats, and nothing else in this loop."""

INTEGER: Final = (
    *("IMAD", "IADD3", "IADD", "VIADD", "ISETP", "SEL", "LEA", "IMNMX", "VIMNMX", "PLOP3"),
    *("UIADD3", "UIMAD", "UISETP", "USEL", "ULEA", "USHF", "USGXT", "ULOP3", "UMOV", "MOV", "R2UR"),
)
"""Addresses, counters and predicates, those of the uniform datapath included."""


_UNROLLED_STEPS: Final = 8
"""Up to so many steps the compiler may leave no loop, and nothing a step to count."""


class MachineError(RuntimeError):
    """A cubin that does not meet what its configuration promises."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One cubin's report. Bytes and registers are per block and per thread.

    `loop` counts instructions in the step over K (empty where there is none), `loads` copies from
    global memory there by their width in bytes.
    """

    registers: int
    stack: int
    local: int
    static_shared: int
    spill_instructions: int
    loop: Mapping[str, int]
    loads: Mapping[int, int]
    matrix: tuple[str, ...]

    def counted(self, names: tuple[str, ...]) -> int:
        """Instructions of these names in the loop."""
        return sum(self.loop.get(name, 0) for name in names)


def inspect(cubin: bytes) -> Machine:
    """Disassemble `cubin`. Raises MachineError where the tool gives no report."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        resources = _RESOURCES.search(_cuobjdump("-res-usage", path))
        code = _INSTRUCTION.findall(_cuobjdump("-sass", path))
    if resources is None or not code:
        raise MachineError("cuobjdump reports no resources or no code for this cubin")
    registers, stack, shared, local = map(int, resources.groups())
    names = [_name(text) for _, text in code]
    loop = _loop([(int(address, 16), text) for address, text in code])
    return Machine(
        registers=registers,
        stack=stack,
        local=local,
        static_shared=shared,
        spill_instructions=sum(name in ("LDL", "STL") for name in names),
        loop=Counter(_name(text) for text in loop),
        loads=Counter(_width(text) for text in loop if _name(text) in ("LDG", "LDGSTS")),
        matrix=tuple(sorted({kind for kind, name in MATRIX.items() if name in names})),
    )


def faults(machine: Machine, sm: int, shared: int) -> list[str]:
    """What is wrong with any kernel's machine code: spills, too much shared memory."""
    found = []
    if machine.local or machine.stack or machine.spill_instructions:
        found.append(
            f"registers spill: {machine.local + machine.stack} bytes of local memory, "
            f"{machine.spill_instructions} loads and stores of it"
        )
    needed = shared + machine.static_shared
    if needed > SHARED_LIMIT[sm]:
        found.append(f"{needed} bytes of shared memory; SM {sm} gives a block {SHARED_LIMIT[sm]}")
    return found


def order_faults(ptx: str, overlaps: bool) -> list[str]:
    """What is wrong with the order in which a kernel's code waits, lets the next launch start, and
    writes. `overlaps`: it is compiled to start before the launch before it has ended."""
    wait, leave = ptx.find("griddepcontrol.wait"), ptx.find("griddepcontrol.launch_dependents")
    if not overlaps:
        used = wait >= 0 or leave >= 0
        return ["it waits for a launch that it does not overlap"] if used else []
    if wait < 0:
        return ["it does not wait for the launch that it overlaps"]
    found = []
    if 0 <= leave < wait:
        found.append("it lets the next launch start before it waits itself")
    if _WRITES.search(ptx, 0, wait):
        found.append("it writes before it waits")
    return found


def product_faults(
    machine: Machine, matrix: str, constants: Mapping[str, int], threads: int
) -> list[str]:
    """What is wrong with a grouped product: its matrix instructions, the width of its loads."""
    unroll, slices = constants["UNROLL"], constants["SLICES"]
    block_m, block_n = slices * constants["BLOCK_M"], slices * constants["BLOCK_N"]
    found = []
    if machine.matrix != (matrix,):
        found.append(f"matrix instructions {list(machine.matrix)}; {matrix} is expected")
    if not machine.loop and constants["K"] <= 64 * slices * unroll * _UNROLLED_STEPS:
        return found
    # A step is block_n rows of weights, always copied 16 bytes at a time, and block_m rows of 128
    # bytes of activations; half a block of those can be less than 16 bytes a thread. Scales, four
    # bytes an output or two of them, are the rest.
    activations = -(-block_m * 128 // threads)
    wide = -(-block_n * BLOCK_K * constants["BITS"] // (8 * 16 * threads))
    scales = block_n if constants["SCALE_DIVISOR"] == FP32_SCALES else block_n // 2
    # Before 3.9, triton has threads load two scales each where there are fewer scales than threads.
    each = 2 if scales < threads else -(-scales // threads)
    narrow = each * 4 * max(1, 64 // constants["GROUP"])
    if constants["GROUP"] < 64 and activations < 32:
        narrow += activations
    else:
        wide += -(-activations // 16)
    if machine.loads.get(16, 0) < unroll * wide:
        found.append(
            f"{machine.loads.get(16, 0)} loads of 16 bytes a step; {unroll * wide} are expected"
        )
    seen = sum(width * times for width, times in machine.loads.items() if width < 16)
    if seen > unroll * narrow:
        found.append(f"{seen} bytes a thread in narrow loads; {unroll * narrow} are expected")
    return found


def _cuobjdump(option: str, path: Path) -> str:
    import triton

    tool = triton.knobs.nvidia.cuobjdump.path
    return subprocess.run([tool, option, path], capture_output=True, text=True, check=True).stdout


def _name(text: str) -> str:
    return re.split(r"[.\s]", text, maxsplit=1)[0]


def _width(text: str) -> int:
    """Bytes that a load moves for each thread."""
    match = re.search(r"\.(64|128)\b", text.split(" ", 1)[0])
    return int(match[1]) // 8 if match else 4


def _loop(code: list[tuple[int, str]]) -> list[str]:
    """The shortest stretch that ends in a branch back and holds a matrix instruction."""
    loops = []
    for address, text in code:
        branch = re.search(r"^BRA\b.*?(0x[0-9a-f]+)", text)
        if branch and int(branch[1], 16) < address:
            body = [other for at, other in code if int(branch[1], 16) <= at <= address]
            if any(_name(other) in MATRIX.values() for other in body):
                loops.append(body)
    return min(loops, key=len, default=[])
