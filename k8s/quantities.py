"""Kubernetes quantities in every spelling that the API server reads."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_SUFFIXES: Final = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 10**3), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12),
    "P": Fraction(10**15), "E": Fraction(10**18),
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40),
    "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip

_PATTERN: Final = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))"
    r"(?:[eE](?P<exponent>[+-]?[0-9]+)|(?P<suffix>[KMGTPE]i|[numkMGTPE]?))"
)

_LARGEST: Final = Fraction(2**63 - 1)
"""The API server lowers larger quantities to this one."""

_LONGEST: Final = 256
"""Characters that are read: a number of thousands of digits would take long."""


def parse_quantity(value: object) -> Fraction:
    """A quantity in units (cores, bytes, GPUs): `1Pi`, `24e9`, `1.5E3`, `500m`, `.5Gi`, a number.

    Raises `ValueError` where it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is not a quantity")  # noqa: TRY004 - bad data, not a bug
    text = str(value)
    match = _PATTERN.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a quantity")
    number = Fraction(match["number"])
    if match["exponent"] is None:
        return _capped(number * _SUFFIXES[match["suffix"]])
    # Powers beyond these change nothing: the result is capped, or rounded up to a billionth.
    exponent = max(-_LONGEST * 2, min(_LONGEST * 2, int(match["exponent"])))
    return _capped(number * Fraction(10) ** exponent)


def _capped(amount: Fraction) -> Fraction:
    """Within the API server's range, and rounded up to a billionth, as it does."""
    billionths = -(-abs(amount) * 10**9 // 1)
    size = min(_LARGEST, Fraction(int(billionths), 10**9))
    return size if amount >= 0 else -size
