"""The memory checker itself: faulty kernels that it must catch."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError


@triton.jit  # type: ignore[untyped-decorator]
def copy(source, target, shift: tl.constexpr, stride: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * stride + tl.arange(0, 8)
    tl.store(target + at, tl.load(source + at + shift))


def test_a_faultless_copy_passes() -> None:
    source, target = torch.arange(32), torch.zeros(32, dtype=torch.int64)
    copy[(4,)](source, target, shift=0, stride=8)
    assert torch.equal(source, target)


@pytest.mark.parametrize(
    ("programs", "shift", "stride", "message"),
    [
        (4, 1, 8, "a load of bytes .* leaves its tensor"),
        (4, -1, 8, "a load of bytes .* leaves its tensor"),
        (4, 0, 7, "stored to twice"),
    ],
)
def test_faults_are_caught(programs: int, shift: int, stride: int, message: str) -> None:
    source, target = torch.arange(32), torch.zeros(32, dtype=torch.int64)
    with pytest.raises(InterpreterError, match=message):
        copy[(programs,)](source, target, shift=shift, stride=stride)


def test_a_store_beyond_the_end_is_caught() -> None:
    with pytest.raises(InterpreterError, match=r"a store of bytes .* leaves its tensor"):
        copy[(4,)](torch.arange(32), torch.zeros(31, dtype=torch.int64), shift=0, stride=8)


def test_reading_what_another_program_wrote_is_caught() -> None:
    both = torch.arange(40)
    with pytest.raises(InterpreterError, match="another one of its launch stored"):
        copy[(4,)](both, both[8:], shift=0, stride=8)
