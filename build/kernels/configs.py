"""Tile sizes per architecture and load: the one place where a measured table can replace these.

NOT TUNED on hardware as they are. An earlier table of the same shapes ran on an H200
(docs/hardware.md of the project); these follow from that run, from what the compiler reports, and
from a prediction over both (`benchmarks/int4_static.py` prints it):

- A decode step reads each chosen expert's weights once and multiplies next to nothing. Measured at
  one token, each warp waited for itself most of the time: 174 programs of two warps leave most
  schedulers one warp or none. So with few pairs a step takes several blocks of K, each in warps of
  its own (`slices`): as many instructions a step, in a fraction of the steps.
- Weights are the left operand and tokens the right one, so 8 tokens are a whole tile: no
  multiplication is spent on more padding than that.
- Fewer warps than a warp group make SM 90 use `mma`: a `wgmma` step costs fences that a step of
  this size does not earn back. With more rows an expert, `wgmma` it is.
- Larger tiles spread the conversion of a weight over more tokens. They stop where the prediction
  says that filling blocks up costs more multiplications than that saves instructions: at 32 rows
  with `mma`, at 128 with `wgmma`.
- With 128 rows a step takes two blocks of K: what a step costs besides is then paid half as often.
  Three blocks spill registers, and so do two with groups of 32.
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

    `warps` a program; `slices` blocks of the input width a step, in warps of their own; `stages`
    blocks or slices in flight, less one, `unroll` of them a step. `matrix` is the
    instruction family expected in the machine code: `mma` or `wgmma`. Results of `down` are kept in
    FP32 until they are summed over a token's experts, or in the activations' own type where there
    are so many that their bytes would count (`narrow_partials`).
    """

    block_m: int
    block_n: int
    warps: int
    stages: int
    matrix: str = "mma"
    unroll: int = 1
    slices: int = 1
    narrow_partials: bool = False
    tuned: bool = False


_PAIRS: Final = (
    (12, Tile(8, 32, 4, 4, slices=4)),
    (inf, Tile(8, 32, 2, 4, slices=2)),
)
"""For pairs that are not sorted: (largest number of pairs, tile)."""

_FEW_DENSE: Final = Tile(8, 32, 8, 3, slices=8)
"""For up to 8 rows of one expert: no more than 116 programs for the shared one of Nano."""

_DECODE: Final = (
    (4.0, Tile(8, 64, 2, 6, unroll=2)),
    (12.0, Tile(16, 128, 2, 4)),
)
_MOST_IN_HALVES: Final = Tile(16, 128, 4, 4)

_AMPERE: Final = (
    *_DECODE,
    (28.0, Tile(32, 128, 4, 4)),
    (inf, Tile(32, 128, 4, 4, narrow_partials=True)),
)
_MANY_DENSE: Final = 1024
"""Rows of one expert from which blocks of the largest tile are enough for all multiprocessors."""

_LARGE: Final = 60.0
"""Mean number of rows an expert above which a tile has 128."""

_HOPPER: Final = (
    *_DECODE,
    (28.0, Tile(32, 128, 4, 4, "wgmma")),
    (_LARGE, Tile(64, 128, 4, 4, "wgmma", narrow_partials=True)),
    (inf, Tile(128, 128, 8, 6, "wgmma", unroll=2, narrow_partials=True)),
)

TILES: Final = {80: _AMPERE, 86: _AMPERE, 89: _AMPERE, 90: _HOPPER}
"""Per SM version: (largest mean number of rows an expert gets, tile), in rising order."""


def tile_for(sm: int, rows_per_expert: float, group: int) -> Tile:
    """The tile for a mean number of rows an expert; newer architectures use the newest table.

    Groups of 32 multiply a block in two halves, each with a scale of its own: with `mma`, 32 rows
    then spill registers, and so do 16 in two warps; and so do two blocks a step with `wgmma`.
    """
    table = TILES.get(sm) or TILES[max(key for key in TILES if key <= max(sm, min(TILES)))]
    tile = next(tile for limit, tile in table if rows_per_expert <= limit)
    if not ROW < group < BLOCK_K:
        return tile
    if tile.matrix == "wgmma":
        return replace(tile, unroll=1)
    if tile.block_m >= _MOST_IN_HALVES.block_m:
        return replace(_MOST_IN_HALVES, narrow_partials=tile.narrow_partials)
    return tile


def tile_for_pairs(pairs: int) -> Tile:
    """The tile for so many pairs that are not sorted."""
    return next(tile for limit, tile in _PAIRS if pairs <= limit)


def tile_for_dense(sm: int, rows: int, group: int) -> Tile:
    """The tile for so many rows of one expert."""
    if rows <= _FEW_DENSE.block_m:
        return _FEW_DENSE
    return tile_for(sm, rows if rows >= _MANY_DENSE else min(rows, _LARGE), group)
