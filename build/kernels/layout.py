"""How packed weights lie in memory (`packing.py` says why). Constants only, so that kernels can be
compiled without torch."""

from __future__ import annotations

from typing import Final

BLOCK_K: Final = 64
"""Input width of one packed block."""

BITS: Final = (4, 8)
"""Widths of a weight that the kernels know: INT4 and INT8."""

WORD_BITS: Final = 16
"""Bits of a packed word: those of an activation, so that a word's lane becomes a value's."""

GROUPS: Final = (32, 64, 128)
"""Group sizes the kernels know, beside `ROW`."""

ROW: Final = 0
"""As a group size: a row has one scale. Rows are then whole blocks wide."""

FP32_SCALES: Final = 0
"""As a scale divisor: scales are FP32."""

SCALE_DIVISORS: Final = {4: (7, 1), 8: (127, 1)}
"""By bits of a weight, the divisors d for which scales may be kept as BF16 numbers n, each scale
n / d in FP32. A quantizer that maps the largest of a group's BF16 weights to the largest integer,
as ModelOpt does, gives such scales; others store BF16 scales. The likelier one comes first."""

ROW_PAIR: Final = 8
"""How far two rows lie apart whose BF16 scales share a 32-bit word: both are rows of one thread in
a matrix instruction's result."""


def planes(bits: int) -> int:
    """Values in a word."""
    return WORD_BITS // bits


def depth(bits: int) -> int:
    """Words of a row in a block, and values of a row in a plane of it: 16 or 32."""
    return BLOCK_K // planes(bits)


def zero(bits: int) -> int:
    """The packed form of 0: a value is kept as itself plus this, which is never negative."""
    return 1 << (bits - 1)
