"""Which kernels run for a layer, in which order, with which constants and buffers. Pure Python.

The op launches what stands here and the ahead-of-time compiler compiles what stands here, so the
two cannot differ. Everything follows from shapes: nothing depends on what the tensors hold, so no
step waits for the host and a CUDA graph can capture them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Final

from .configs import Tile, tile_for, tile_for_dense, tile_for_pairs
from .layout import BLOCK_K, FP32_SCALES, ROW

PAIRS: Final = 0
SORTED: Final = 1
DENSE: Final = 2

ACTIVATION: Final = "activation"
"""The dtype of the hidden states, whichever it is."""

_OPERAND_TYPES: Final[Mapping[str, str]] = {
    "hidden": ACTIVATION, "out": ACTIVATION, "inner": ACTIVATION,
    "up": "i16", "down": "i16",
    "expert_ids": "i32", "expert_weights": "fp32",
    "logits": "fp32", "bias": "fp32", "scaling": "fp32",
}  # fmt: skip

_SCALES: Final = ("up_scale", "down_scale")

_PAIRS_SHARE: Final = 0.2
"""Unsorted while at most this part of the weights is expected to be read twice: on an H200 that was
faster than sorting at 8 tokens of Nano, where it is 0.18."""

_ROUTED_ROWS: Final = 16
_ROUTED_SCORES: Final = 4096
"""Tokens, and their scores, that one program routes at most: 8 warps hold them in registers."""

_SCORES_A_WARP: Final = 512

_DEPENDENT_LAUNCH: Final = 90
"""The SM version from which a launch may start before the one before it has ended (CUDA C++
Programming Guide, "Programmatic Dependent Launch and Synchronization")."""

_COMBINE_N: Final = 512
_ONE_HOT: Final = 16_384
_COLUMNS_OF_8_WARPS: Final = 128
"""Experts up to which 8 warps hold the one-hot table of a chunk in registers."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One layer's experts on one rank: widths, how many, how many a token chooses, group size (0:
    whole rows), and bits of a weight.

    `routes`: how many experts all ranks' together are, where the router's choice is made here; 0
    where choices are given. `scale_divisor`: what scales are BF16 numbers over; 0 for FP32 scales.
    """

    hidden: int
    width: int
    experts: int
    top_k: int
    group: int
    bits: int = 4
    routes: int = 0
    scale_divisor: int = FP32_SCALES

    @property
    def scale_type(self) -> str:
        """The dtype of the tensors that hold scales: BF16 numbers lie two in a word."""
        return "fp32" if self.scale_divisor == FP32_SCALES else "i32"


@dataclass(frozen=True, slots=True)
class Buffer:
    """Working memory: its shape and its dtype (`i32`, `fp32` or `activation`)."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def values(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Step:
    """One launch. `operands` in the kernel's order: a tensor's name, or a number's.

    `overlaps`: it may start before the launch before it has ended, for which it waits itself.
    """

    kernel: str
    programs: int
    operands: tuple[tuple[str, str | int], ...]
    constants: tuple[tuple[str, int], ...]
    warps: int
    stages: int
    overlaps: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What runs for one call, and the working memory it needs. Two are never equal: those of one
    shape are made once, and compared and hashed at every call."""

    steps: tuple[Step, ...]
    buffers: Mapping[str, Buffer]
    tile: Tile
    scale_type: str = "fp32"

    def type_of(self, operand: str) -> str:
        """The dtype of a tensor operand."""
        if operand in _SCALES:
            return self.scale_type
        buffer = self.buffers.get(operand)
        return buffer.dtype if buffer else _OPERAND_TYPES[operand]


FIRST_EXPERT: Final = "first_expert"
"""An operand's name whose number the caller gives."""


def operand_types(step: Step, steps: Steps, activation: str) -> tuple[str, ...]:
    """The type of each operand as Triton writes it: `*bf16`, `i32` and so on."""
    types = []
    for _, operand in step.operands:
        if isinstance(operand, int) or operand == FIRST_EXPERT:
            types.append("i32")
        else:
            kind = steps.type_of(operand)
            types.append("*" + (activation if kind == ACTIVATION else kind))
    return tuple(types)


def block_limit(pairs: int, experts: int, block_m: int) -> int:
    """The most blocks that `pairs` choices can fill, whatever they are.

    An expert with c > 0 rows takes ceil(c / m) <= 1 + (c - 1) / m blocks; summed over the n <=
    min(experts, pairs) that have any, n + (pairs - n) / m, which is largest for the largest n.
    """
    hit = min(experts, pairs)
    return hit + (pairs - hit) // block_m


@lru_cache(maxsize=1024)
def routed(shape: Shape, tokens: int, sm: int, tile: Tile | None = None) -> Steps:
    """The steps of `tokens` > 0 tokens through their routed experts.

    `tile`: another one than the table's, which also means that pairs are sorted.
    """
    pairs = tokens * shape.top_k
    # Two of the choices fall on one expert with probability 1 / experts: so many are read again.
    alone = tile is None and (pairs - 1) / (2 * shape.experts) <= _PAIRS_SHARE
    if alone:
        tile = tile_for_pairs(pairs)
    tile = tile or tile_for(sm, pairs / shape.experts, shape.group)
    buffers = {
        "inner": Buffer((pairs, shape.width), ACTIVATION),
        "partial": Buffer((pairs, shape.hidden), ACTIVATION if tile.narrow_partials else "fp32"),
    }
    blocks = pairs if alone else block_limit(pairs, shape.experts, tile.block_m)
    placed = not alone and shape.routes > 0 and tokens <= _routed_rows(shape.routes)
    ordering: list[Step] = []
    if not alone:
        buffers["slots"] = Buffer((blocks * tile.block_m,), "i32")
        buffers["block_experts"] = Buffer((blocks,), "i32")
    if shape.routes:
        buffers["expert_ids"] = Buffer((tokens, shape.top_k), "i32")
        buffers["expert_weights"] = Buffer((tokens, shape.top_k), "fp32")
        ordering.append(_route(shape, tokens, blocks if placed else 0, tile))
    if not alone and not placed:
        ordering += _ordering(shape, pairs, blocks, tile, buffers)
    mode = PAIRS if alone else SORTED
    lists = ("expert_ids", "expert_ids") if alone else ("block_experts", "slots")
    up = _product("up", shape, tile, mode, blocks, pairs, lists, ("hidden", "inner"))
    down = _product("down", shape, tile, mode, blocks, pairs, lists, ("inner", "partial"))
    chain = (*ordering, up, down, _combine(shape, tokens))
    return Steps(_overlapping(chain, sm), buffers, tile, shape.scale_type)


@lru_cache(maxsize=1024)
def shared(shape: Shape, tokens: int, sm: int, tile: Tile | None = None) -> Steps:
    """The steps of `tokens` > 0 tokens through the one expert that all of them share."""
    tile = tile or tile_for_dense(sm, tokens, shape.group)
    blocks = -(-tokens // tile.block_m)
    buffers = {"inner": Buffer((tokens, shape.width), ACTIVATION)}
    lists = ("inner", "inner")  # not read
    up = _product("up", shape, tile, DENSE, blocks, tokens, lists, ("hidden", "inner"))
    down = _product("down", shape, tile, DENSE, blocks, tokens, lists, ("inner", "out"))
    return Steps(_overlapping((up, down), sm), buffers, tile, shape.scale_type)


def _overlapping(chain: tuple[Step, ...], sm: int) -> tuple[Step, ...]:
    """The launches of one call; from SM 90 on each but the first starts while the one before it
    ends."""
    overlap = sm >= _DEPENDENT_LAUNCH
    return tuple(
        replace(
            step,
            constants=(*step.constants, ("OVERLAP", int(overlap))),
            overlaps=overlap and place > 0,
        )
        for place, step in enumerate(chain)
    )


@lru_cache(maxsize=1024)
def route(experts: int, top_k: int, tokens: int, sm: int) -> Steps:
    """The router's choice alone, of `experts`, for `tokens` > 0 tokens."""
    tile = tile_for_pairs(tokens * top_k)
    shape = Shape(0, 0, experts, top_k, 0, routes=experts)
    return Steps(_overlapping((_route(shape, tokens, 0, tile),), sm), {}, tile)


def _route(shape: Shape, tokens: int, blocks: int, tile: Tile) -> Step:
    """The router's choice; with `blocks` > 0 the pairs are sorted into so many blocks, too."""
    columns = _power_of_two(shape.routes)
    rows = min(_routed_rows(shape.routes), _power_of_two(tokens))
    unused = "expert_ids"
    return Step(
        "route",
        -(-tokens // rows),
        (
            ("logits", "logits"), ("bias", "bias"), ("scaling", "scaling"),
            ("ids", "expert_ids"), ("weights", "expert_weights"),
            ("slots", "slots" if blocks else unused),
            ("block_experts", "block_experts" if blocks else unused),
            ("tokens", tokens), ("first_expert", FIRST_EXPERT), ("num_experts", shape.experts),
            ("blocks", blocks),
        ),
        (
            ("EXPERTS", shape.routes), ("COLUMNS", columns),
            ("TOP_K", shape.top_k), ("KEPT", _power_of_two(shape.top_k)), ("ROWS", rows),
            ("PLACE", int(blocks > 0)), ("BLOCK_M", tile.block_m if blocks else 1),
        ),
        warps=max(4, rows * columns // _SCORES_A_WARP),
        stages=2,
    )  # fmt: skip


def _routed_rows(experts: int) -> int:
    """Tokens that one program routes among `experts`, and up to which it sorts them as well."""
    return min(_ROUTED_ROWS, max(1, _ROUTED_SCORES // _power_of_two(experts)))


def _power_of_two(number: int) -> int:
    """The smallest that is no less."""
    return 1 << max(0, number - 1).bit_length()


def _ordering(
    shape: Shape, pairs: int, blocks: int, tile: Tile, buffers: dict[str, Buffer]
) -> tuple[Step, ...]:
    """Sort the pairs by expert; more than a chunk of them are counted first."""
    columns = _power_of_two(shape.experts)
    chunk = max(16, min(128, _ONE_HOT // columns))
    chunks = -(-pairs // chunk)
    counted = chunks > 1
    warps = 8 if columns <= _COLUMNS_OF_8_WARPS else 16
    numbers: tuple[tuple[str, str | int], ...] = (
        ("pairs", pairs), ("first_expert", FIRST_EXPERT), ("num_experts", shape.experts),
    )  # fmt: skip
    sizes = (("CHUNK", chunk), ("COLUMNS", columns))
    counts = "counts" if counted else "slots"
    place = Step(
        "place",
        chunks,
        (
            ("ids", "expert_ids"), ("counts", counts), ("slots", "slots"),
            ("block_experts", "block_experts"), *numbers, ("chunks", chunks), ("blocks", blocks),
        ),
        (*sizes, ("BLOCK_M", tile.block_m), ("COUNTED", int(counted))),
        warps=warps,
        stages=2,
    )  # fmt: skip
    if not counted:
        return (place,)
    buffers["counts"] = Buffer((chunks, shape.experts), "i32")
    operands = (("ids", "expert_ids"), ("counts", "counts"), *numbers)
    return (Step("count", chunks, operands, sizes, warps=warps, stages=2), place)


def _product(
    name: str,
    shape: Shape,
    tile: Tile,
    mode: int,
    blocks: int,
    rows: int,
    lists: tuple[str, str],
    ends: tuple[str, str],
) -> Step:
    """The product with `up` or `down`, from buffer `ends[0]` to `ends[1]`."""
    up = name == "up"
    n, k = (shape.width, shape.hidden) if up else (shape.hidden, shape.width)
    stages = 1 + -(-(tile.stages - 1) // tile.unroll)
    group = -(-k // BLOCK_K) * BLOCK_K if shape.group == ROW else shape.group
    return Step(
        "grouped",
        blocks * -(-n // tile.block_n),
        (
            ("x", ends[0]), ("words", name), ("scale", f"{name}_scale"), ("out", ends[1]),
            ("experts", lists[0]), ("slots", lists[1]), ("rows", rows),
            ("first_expert", FIRST_EXPERT), ("num_experts", shape.experts),
        ),
        (
            ("N", n), ("K", k), ("BITS", shape.bits), ("GROUP", group),
            ("SCALE_DIVISOR", shape.scale_divisor),
            ("DIVISOR", shape.top_k if up and mode != DENSE else 1),
            ("RELU2", int(up)), ("MODE", mode), ("BLOCK_M", tile.block_m),
            ("BLOCK_N", tile.block_n), ("SLICES", tile.slices), ("STAGES", stages),
            ("UNROLL", tile.unroll),
        ),
        tile.warps,
        stages,
    )  # fmt: skip


def _combine(shape: Shape, tokens: int) -> Step:
    """The weighted sum over a token's experts."""
    return Step(
        "combine",
        tokens * -(-shape.hidden // _COMBINE_N),
        (
            ("partial", "partial"), ("ids", "expert_ids"), ("weights", "expert_weights"),
            ("out", "out"), ("first_expert", FIRST_EXPERT), ("num_experts", shape.experts),
        ),
        (("N", shape.hidden), ("TOP_K", shape.top_k), ("BLOCK_N", _COMBINE_N)),
        warps=2,
        stages=2,
    )  # fmt: skip
