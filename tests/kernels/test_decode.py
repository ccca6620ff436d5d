"""Packed integers to floats without a conversion: the PTX that does it.

The interpreter runs no inline PTX, so the instructions are carried out here, on the text that
is compiled, by what the PTX ISA says of each.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import triton.language as tl
from torch import Tensor

from nemotron_deploy.build.kernels import kernel, layout

DTYPES = {"bf16": (tl.bfloat16, torch.bfloat16), "fp16": (tl.float16, torch.float16)}

PLANES = [(bits, plane) for bits in layout.BITS for plane in range(layout.planes(bits))]


def lanes(word: Tensor, dtype: torch.dtype) -> Tensor:
    """A 32-bit register as two 16-bit floats, in double precision: [..., 2], the low one first."""
    return word.to(torch.int32).view(dtype).view(*word.shape, 2).double()


def from_lanes(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype).view(torch.int32).squeeze(-1).long() & 0xFFFFFFFF


def lop3(a: Tensor, b: Tensor, c: Tensor, table: Tensor) -> Tensor:
    """PTX ISA `lop3.b32`: bit 4a + 2b + c of the table."""
    out = torch.zeros_like(a)
    for index in range(8):
        if int(table.flatten()[0]) >> index & 1:
            x = a if index & 4 else ~a
            y = b if index & 2 else ~b
            z = c if index & 1 else ~c
            out |= x & y & z
    return out & 0xFFFFFFFF


def fma(dtype: torch.dtype) -> Callable[..., Tensor]:
    """One rounding, after an exact product and sum (exact in double for these values)."""
    return lambda a, b, c: from_lanes(lanes(a, dtype) * lanes(b, dtype) + lanes(c, dtype), dtype)


INSTRUCTIONS: dict[str, Callable[..., Tensor]] = {
    "mov.b32": lambda a: a,
    "shr.u32": lambda a, n: a >> n,
    "lop3.b32": lop3,
    "fma.rn.bf16x2": fma(torch.bfloat16),
    "add.rn.f16x2": lambda a, b: from_lanes(
        lanes(a, torch.float16) + lanes(b, torch.float16), torch.float16
    ),
}


def execute(ptx: str, word: Tensor) -> Tensor:
    """The value of $0 after the statements of `ptx`, with $1 = `word` (registers as int64)."""
    registers: dict[str, Tensor] = {"$1": word}
    for statement in re.findall(r"([^;{}]+);", ptx):
        name, *operands = re.split(r"[,\s]+", statement.strip())
        if name == ".reg":
            continue
        values = [
            registers[operand] if operand in registers else torch.full_like(word, int(operand, 0))
            for operand in operands[1:]
        ]
        registers[operands[0]] = INSTRUCTIONS[name](*values)
    return registers["$0"]


@pytest.mark.parametrize(("bits", "plane"), PLANES)
@pytest.mark.parametrize("name", DTYPES)
def test_the_inline_ptx_gives_every_value_of_every_word(name: str, bits: int, plane: int) -> None:
    language, dtype = DTYPES[name]
    low = torch.arange(1 << 16)
    high = low[torch.randperm(1 << 16, generator=torch.Generator().manual_seed(plane))]
    result = execute(kernel.plane_ptx(plane, bits, language), low | high << 16)
    mask, zero = (1 << bits) - 1, 1 << bits - 1
    wanted = torch.stack([(half >> bits * plane & mask) - zero for half in (low, high)], dim=-1)
    assert set(wanted.flatten().tolist()) == set(range(-zero, zero))
    assert torch.equal(lanes(result, dtype), wanted.double())


@pytest.mark.parametrize(
    ("bits", "wrong"),
    [
        (4, ("0xC308", "0xC309")),
        (4, ("0x000F000F", "0x00FF000F")),
        (4, ("$1, 4", "$1, 3")),
        (8, ("0xC380", "0xC300")),
        (8, ("0x007F007F", "0x00FF00FF")),
        (8, ("0x00800080", "0x00000080")),
        (8, ("0x6A", "0xEA")),
        (8, ("$1, 8", "$1, 7")),
    ],
)
def test_the_emulation_would_notice_a_wrong_constant(bits: int, wrong: tuple[str, str]) -> None:
    ptx = kernel.plane_ptx(1, bits, tl.bfloat16)
    words = torch.arange(1 << 16) << 16
    assert wrong[0] in ptx
    assert not torch.equal(execute(ptx.replace(*wrong), words), execute(ptx, words))
