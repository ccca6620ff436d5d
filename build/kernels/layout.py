"""How packed weights lie in memory (`packing.py` says why). Constants only, so that kernels can be
compiled without torch."""

from __future__ import annotations

from typing import Final

BLOCK_K: Final = 64
"""Input width of one packed block."""

PLANES: Final = 4
"""Values in a 16-bit word."""

DEPTH: Final = BLOCK_K // PLANES
"""Words of a row in a block; the depth of one matrix instruction on 16-bit floats."""

GROUPS: Final = (32, 64, 128)
"""Group sizes the kernels know."""
