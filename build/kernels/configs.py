"""Tile sizes per architecture and load: the one place where a measured table can replace these.

NOT TUNED: nothing here has run on a GPU. The choices follow from what the compiler reports and from
a prediction over it (`benchmarks/int4_static.py` prints both):

- A decode step reads each chosen expert's weights once and multiplies next to nothing, so bytes in
  flight decide. Two warps a program keep five or six blocks of 2.25 KB on the way; Nano's 6 chosen
  experts make 174 (up) and 252 (down) programs, 2 MB and more in all, which is what bandwidth times
  latency asks for (3.35 TB/s x 0.7 us = 2.3 MB on an H100).
- Weights are the left operand and tokens the right one, so 8 tokens are a whole tile: no
  multiplication is spent on more padding than that.
- Two warps are below a warp group, so that SM 90 uses `mma` there: a `wgmma` step costs fences
  that a step of this size does not earn back. With more rows an expert, `wgmma` it is.
- Larger tiles spread the conversion of a weight over more tokens. They stop where the prediction
  says that filling blocks up costs more multiplications than that saves instructions: at 32 rows
  with `mma`, at 64 with `wgmma`. Every choice is within 3 % of the best of the table's tiles by the
  prediction, from 1 to 8192 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final

from .layout import BLOCK_K, ROW

OPTIONS: Final[Mapping[str, Any]] = {"enable_fp_fusion": True}
"""Compiler options that change results, fixed here: Triton's own defaults move."""

SHARED_LIMIT: Final = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448}
"""Bytes of shared memory one block may use, per SM version (CUDA C++ Programming Guide, "Compute
Capabilities")."""

REGISTERS: Final = 65_536
"""32-bit registers of one multiprocessor; the same on all of them."""

THREADS: Final = {80: 2048, 86: 1536, 89: 1536, 90: 2048}
"""Threads a multiprocessor holds."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program computes: `block_n` outputs of `block_m` rows, and how.

    `warps` a program; `stages` blocks of the input width in flight, less one, `unroll` of them a
    step where their number allows. `matrix` is the instruction family expected in the machine code:
    `mma` or `wgmma`. Results of `down` are kept in FP32 until they are summed over a token's
    experts, or in the activations' own type where there are so many that their bytes would count
    (`narrow_partials`).
    """

    block_m: int
    block_n: int
    warps: int
    stages: int
    matrix: str = "mma"
    unroll: int = 1
    narrow_partials: bool = False
    tuned: bool = False


_DECODE: Final = (
    (4.0, Tile(8, 64, 2, 6, unroll=2)),
    (12.0, Tile(16, 128, 2, 4)),
)
_MOST_IN_HALVES: Final = Tile(16, 128, 2, 4)

_AMPERE: Final = (
    *_DECODE,
    (28.0, Tile(32, 128, 4, 4)),
    (inf, Tile(32, 128, 4, 4, narrow_partials=True)),
)
_HOPPER: Final = (
    *_DECODE,
    (28.0, Tile(32, 128, 4, 4, "wgmma")),
    (inf, Tile(64, 128, 4, 4, "wgmma", narrow_partials=True)),
)

TILES: Final = {80: _AMPERE, 86: _AMPERE, 89: _AMPERE, 90: _HOPPER}
"""Per SM version: (largest mean number of rows an expert gets, tile), in rising order."""


def tile_for(sm: int, rows_per_expert: float, group: int) -> Tile:
    """The tile for a mean number of rows an expert; newer architectures use the newest table.

    Groups of 32 multiply a block in two halves, each with a scale of its own: 32 rows with `mma`
    then spill registers, 16 do not.
    """
    table = TILES.get(sm) or TILES[max(key for key in TILES if key <= max(sm, min(TILES)))]
    tile = next(tile for limit, tile in table if rows_per_expert <= limit)
    if ROW < group < BLOCK_K and tile.matrix == "mma" and tile.block_m > _MOST_IN_HALVES.block_m:
        return replace(_MOST_IN_HALVES, narrow_partials=tile.narrow_partials)
    return tile
