"""The number of the encoding: which code wrote the bytes of a quantized checkpoint."""

from __future__ import annotations

from typing import Final

ENCODING: Final = 2
"""Raise this when the same checkpoint and options give other bytes than before: another rounding,
another layout of a tensor, another search for smoothing scales. Raise it also when an interrupted
run can no longer be resumed because the files that it keeps changed their format.

A bundle whose checkpoint has an older number is quantized again at its next build, and an
interrupted run with an older number starts over. For Nemotron 3 Nano that means reading 63 GB, so
nothing else raises it, the package's version least of all. `tests/quantize/test_encoding.py` fails
when the bytes change and the number does not.
"""
