"""The kernels, in the Triton language. `steps.py` says which run for a layer, and over what.

One product serves `up` and `down` of routed and shared experts alike:

    out[row, n] = act(sum over k of W[expert(row), n, k] * x[row // DIVISOR, k])

computed transposed, weights on the left: the tile is [BLOCK_N outputs, BLOCK_M rows]. Sums are
FP32; a group's scale multiplies the FP32 sum of that group, never a weight, so that weights enter
the matrix instructions as the exact integers -8..7 (INT4) or -128..127 (INT8).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from . import layout

_BLOCK_K = tl.constexpr(layout.BLOCK_K)
_WORD_BITS = tl.constexpr(layout.WORD_BITS)
_FP32_SCALES = tl.constexpr(layout.FP32_SCALES)
_ROW_PAIR = tl.constexpr(layout.ROW_PAIR)

PAIRS = tl.constexpr(0)
"""Block b is pair b alone: few tokens, whose experts hardly ever meet. No sorting."""

SORTED = tl.constexpr(1)
"""Block b is BLOCK_M slots of one expert, as `place` laid them out."""

DENSE = tl.constexpr(2)
"""Block b is BLOCK_M neighbouring rows, all of expert 0."""


LOWEST_KEY = tl.constexpr(-3.0e38)
"""Below every score that a router gives, and above what marks an expert as taken."""


@triton.jit
def _wait(OVERLAP: tl.constexpr):
    """Wait for the launch before, then let the one after start (programmatic dependent launch,
    SM 90). Who waits first and only then lets the next one start has ended whatever came two
    launches before: that may be read ahead of the wait. Nothing may be written ahead of it."""
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()


@triton.constexpr_function
def _twice(half):
    """A 16-bit number in both halves of a register, as PTX spells it."""
    return f"0x{half:04X}{half:04X}"


@triton.constexpr_function
def plane_ptx(plane, bits, dtype):
    """PTX for two neighbouring words at once: their values number `plane` as two floats, exactly.

    A word holds values of `bits` bits, each plus an offset of 2^(bits - 1). Joined to the exponent
    of 128 (BF16) or 1024 (FP16) they are floats that much larger, and an addition takes it away
    together with the offset. BF16 has room for 7 bits behind the point: the eighth of an INT8 value
    is masked by itself, where it turns the summand -256 into -128. BF16 has no addition before
    SM 90, so that one is a fused multiply-add with 1. The shift carries bits of the upper word into
    the lower one; the masks drop them.
    """
    shift = f"shr.u32 t, $1, {bits * plane};" if plane else "mov.b32 t, $1;"
    mask, offset = (1 << bits) - 1, 1 << (bits - 1)
    if dtype != tl.bfloat16:
        exponent, summand = 0x6400, f"mov.b32 o, {_twice(0xE400 + offset)};"
        last = "add.rn.f16x2 $0, v, o;"
    else:
        exponent, last = 0x4300, "fma.rn.bf16x2 $0, v, u, o;"
        if bits < 8:
            summand = f"mov.b32 o, {_twice(0xC300 + offset)};"
        else:
            mask, summand = 0x7F, f"lop3.b32 o, t, {_twice(0x80)}, {_twice(0xC380)}, 0x6A;"
    return (
        "{ .reg .b32 t, u, v, o; mov.b32 u, 0x3F803F80; "
        f"{shift} lop3.b32 v, t, {_twice(mask)}, {_twice(exponent)}, 0xEA; {summand} {last} }}"
    )


@triton.jit
def _plane(
    words, PLANE: tl.constexpr, BITS: tl.constexpr, DTYPE: tl.constexpr, PORTABLE: tl.constexpr
):
    """Plane PLANE of `words` as floats. PORTABLE: without inline PTX, for the interpreter."""
    if PORTABLE:
        return (((words >> (BITS * PLANE)) & ((1 << BITS) - 1)) - (1 << (BITS - 1))).to(DTYPE)
    elif DTYPE == tl.bfloat16:
        return tl.inline_asm_elementwise(
            plane_ptx(PLANE, BITS, DTYPE), "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2
        )
    else:
        return tl.inline_asm_elementwise(
            plane_ptx(PLANE, BITS, DTYPE), "=r,r", [words], dtype=tl.float16, is_pure=True, pack=2
        )


@triton.jit
def _planes(
    words, FIRST: tl.constexpr, COUNT: tl.constexpr,
    BITS: tl.constexpr, DTYPE: tl.constexpr, PORTABLE: tl.constexpr,
):  # fmt: skip
    """COUNT (1, 2 or 4) planes side by side: [N, COUNT * depth]. Registers only: the compiler moves
    nothing."""
    first = _plane(words, FIRST, BITS, DTYPE, PORTABLE)
    if COUNT == 1:
        return first
    elif COUNT == 2:
        both = tl.join(first, _plane(words, FIRST + 1, BITS, DTYPE, PORTABLE))
        return tl.reshape(tl.permute(both, (0, 2, 1)), (words.shape[0], 2 * words.shape[1]))
    else:
        even = tl.join(first, _plane(words, FIRST + 2, BITS, DTYPE, PORTABLE))
        odd = tl.join(
            _plane(words, FIRST + 1, BITS, DTYPE, PORTABLE),
            _plane(words, FIRST + 3, BITS, DTYPE, PORTABLE),
        )
        all_four = tl.permute(tl.join(even, odd), (0, 2, 3, 1))
        return tl.reshape(all_four, (words.shape[0], 4 * words.shape[1]))


@triton.jit
def _factors(at, inside, SCALE_DIVISOR: tl.constexpr):
    """Scales of rows, float32; where a word holds two BF16 numbers, these, not yet divided. Their
    two rows are both in the registers of the thread that multiplies with them."""
    stored = tl.load(at, mask=inside, other=0)
    if SCALE_DIVISOR == _FP32_SCALES:
        return stored
    else:
        first = (stored << 16).to(tl.float32, bitcast=True)
        second = (stored & -65536).to(tl.float32, bitcast=True)
        both = tl.reshape(tl.join(first, second), (stored.shape[0] // _ROW_PAIR, _ROW_PAIR, 2))
        return tl.reshape(tl.permute(both, (0, 2, 1)), (2 * stored.shape[0],))


@triton.jit
def _dot(weights, values, factors, SLICES: tl.constexpr):
    """weights [S * N, K] times values [S * K, M], slice by slice, times factors [S * N]:
    float32 [S, N, M]. One slice is a product of plain matrices, which `wgmma` takes alone."""
    n: tl.constexpr = weights.shape[0] // SLICES
    m: tl.constexpr = values.shape[1]
    if SLICES == 1:
        return tl.reshape(tl.dot(weights, values) * factors[:, None], (1, n, m))
    else:
        sums = tl.dot(
            tl.reshape(weights, (SLICES, n, weights.shape[1])),
            tl.reshape(values, (SLICES, values.shape[0] // SLICES, m)),
        )
        return sums * tl.reshape(factors, (SLICES, n))[:, :, None]


@triton.jit(do_not_specialize=["rows", "first_expert", "num_experts"])
def grouped(
    x, words, scale, out, experts, slots, rows, first_expert, num_experts,
    N: tl.constexpr, K: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr,
    SCALE_DIVISOR: tl.constexpr, DIVISOR: tl.constexpr, RELU2: tl.constexpr, MODE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SLICES: tl.constexpr, STAGES: tl.constexpr,
    UNROLL: tl.constexpr, OVERLAP: tl.constexpr, PORTABLE: tl.constexpr,
):  # fmt: skip
    """out [rows, N] = act(x [.., K] @ W[expert].T) for the rows of every block.

    `words` int16 [E, K'/64, N, 4 * BITS] and `scale` float32 [E, K'/GROUP, N], or int32 [E,
    K'/GROUP, N/2] for BF16 numbers over SCALE_DIVISOR > 0, as `packing` makes them. The sum is
    divided, so the division costs nothing in the loop.
    `experts`: in mode PAIRS the chosen expert of each row, counted from `first_expert`, of which
    `num_experts` lie here; in mode SORTED each block's expert, `num_experts` or more for a block
    that is not used. `slots`: in mode SORTED each slot's row, `rows` for a slot that is not used.
    Rows of experts that are not here are left unwritten.

    A step multiplies SLICES neighbouring blocks of K, each in warps of its own, whose sums are
    added up after the last step: with few rows there are few programs, and one warp alone waits
    for itself most of the time.
    """
    tiles: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    blocks: tl.constexpr = (K + _BLOCK_K - 1) // _BLOCK_K
    group_rows: tl.constexpr = (blocks * _BLOCK_K + GROUP - 1) // GROUP
    planes: tl.constexpr = _WORD_BITS // BITS
    depth: tl.constexpr = _BLOCK_K // planes
    dtype: tl.constexpr = x.dtype.element_ty
    # A block of 64 that holds two groups is multiplied as two halves, each with its own scale.
    halves: tl.constexpr = GROUP < _BLOCK_K
    width: tl.constexpr = _BLOCK_K // 2 if halves else _BLOCK_K
    step_k: tl.constexpr = SLICES * _BLOCK_K
    steps: tl.constexpr = (blocks + SLICES * UNROLL - 1) // (SLICES * UNROLL) * UNROLL
    # The last steps may hold fewer blocks than slices, or none; the last block may be half filling.
    even: tl.constexpr = blocks == steps * SLICES
    whole: tl.constexpr = even & (blocks * _BLOCK_K == K)

    if RELU2:  # `up` comes right after what chooses the experts
        _wait(OVERLAP)
    block = tl.program_id(0) // tiles
    lane = tl.arange(0, BLOCK_M)
    if MODE == PAIRS:
        expert = tl.load(experts + block) - first_expert
        row = block + lane
        used = lane == 0
    elif MODE == SORTED:
        expert = tl.load(experts + block)
        row = tl.load(slots + block * BLOCK_M + lane)
        used = row < rows
    else:
        expert = 0
        row = block * BLOCK_M + lane
        used = row < rows
    if (expert < 0) | (expert >= num_experts):
        return
    expert = tl.cast(expert, tl.int64)

    lines = tl.arange(0, SLICES * BLOCK_N)
    piece = lines // BLOCK_N
    first_n = (tl.program_id(0) % tiles) * BLOCK_N
    line_n = first_n + lines % BLOCK_N
    word = tl.arange(0, depth)
    k = tl.arange(0, SLICES * width)
    k = k // width * _BLOCK_K + k % width
    words_at = words + expert * (blocks * N * depth)
    words_at += (piece * (N * depth) + line_n * depth)[:, None] + word[None, :]
    # A word of scales is one row's, or that of two.
    word_rows: tl.constexpr = 1 if SCALE_DIVISOR == _FP32_SCALES else 2
    scales: tl.constexpr = N // word_rows
    tile_scales: tl.constexpr = BLOCK_N // word_rows
    scale_line = tl.arange(0, SLICES * tile_scales)
    scale_piece = scale_line // tile_scales
    scale_n = first_n // word_rows + scale_line % tile_scales
    scale_at = scale + expert * (group_rows * scales) + scale_n
    if GROUP <= _BLOCK_K:
        scale_at += scale_piece * (_BLOCK_K // GROUP * scales)
    x_at = x + (row // DIVISOR).to(tl.int64)[None, :] * K + k[:, None]
    if not RELU2:
        _wait(OVERLAP)

    total = tl.zeros((SLICES, BLOCK_N, BLOCK_M), tl.float32)
    for step in tl.range(0, steps, num_stages=STAGES, loop_unroll_factor=UNROLL):
        here = line_n < N
        if not even:
            here = here & (step * SLICES + piece < blocks)
        if even and N % BLOCK_N == 0:
            packed = tl.load(words_at)
        else:
            packed = tl.load(words_at, mask=here[:, None], other=0)
        scaled = scale_n < scales
        if not even:
            scaled = scaled & (step * SLICES + scale_piece < blocks)
        if GROUP > _BLOCK_K:
            several: tl.constexpr = GROUP // _BLOCK_K
            group = (step * SLICES + scale_piece) // several * scales
            factors = _factors(scale_at + group, scaled, SCALE_DIVISOR)
        else:
            factors = _factors(scale_at, scaled, SCALE_DIVISOR)
        inside = used[None, :]
        if not whole:
            inside = inside & (k[:, None] + step * step_k < K)
        values = tl.load(x_at, mask=inside, other=0.0)
        if halves:
            more_factors = _factors(scale_at + scales, scaled, SCALE_DIVISOR)
            if not whole:
                inside = inside & (k[:, None] + (step * step_k + _BLOCK_K // 2) < K)
            more_values = tl.load(x_at + _BLOCK_K // 2, mask=inside, other=0.0)
            weights = _planes(packed, 0, planes // 2, BITS, dtype, PORTABLE)
            total += _dot(weights, values, factors, SLICES)
            weights = _planes(packed, planes // 2, planes // 2, BITS, dtype, PORTABLE)
            total += _dot(weights, more_values, more_factors, SLICES)
        else:
            weights = _planes(packed, 0, planes, BITS, dtype, PORTABLE)
            total += _dot(weights, values, factors, SLICES)
        if GROUP <= _BLOCK_K:
            scale_at += SLICES * (_BLOCK_K // GROUP) * scales
        words_at += SLICES * N * depth
        x_at += step_k

    total = tl.sum(total, axis=0)
    n = first_n + tl.arange(0, BLOCK_N)
    if SCALE_DIVISOR > 1:
        total *= 1.0 / SCALE_DIVISOR
    if RELU2:
        # A NaN stays one: a corrupt scale must not become a plausible number.
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
        total = total * total
    out_at = out + row.to(tl.int64)[None, :] * N + n[:, None]
    tl.store(out_at, total.to(out.dtype.element_ty), mask=used[None, :] & (n[:, None] < N))


@triton.jit
def _chosen(ids, pairs, first_expert, num_experts, CHUNK: tl.constexpr, COLUMNS: tl.constexpr):
    """(pair numbers [CHUNK] of this program, whether pair i chose expert j [CHUNK, COLUMNS])."""
    pair = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    expert = tl.load(ids + pair, mask=pair < pairs, other=0) - first_expert
    here = (pair < pairs) & (expert >= 0) & (expert < num_experts)
    columns = tl.arange(0, COLUMNS)
    return pair, (expert[:, None] == columns[None, :]) & here[:, None]


@triton.jit
def _blocks_of(rows, BLOCK_M: tl.constexpr):
    """(the first block of each expert, the first after them) where expert i has rows[i] rows."""
    used = (rows + BLOCK_M - 1) // BLOCK_M
    end = tl.cumsum(used, axis=0)
    return end - used, end


@triton.jit(do_not_specialize=["pairs", "first_expert", "num_experts"])
def count(
    ids, counts, pairs, first_expert, num_experts, CHUNK: tl.constexpr, COLUMNS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """counts int32 [chunks, num_experts]: how often a chunk of `ids` names each expert."""
    _wait(OVERLAP)
    _, hit = _chosen(ids, pairs, first_expert, num_experts, CHUNK, COLUMNS)
    column = tl.arange(0, COLUMNS)
    at = counts + tl.program_id(0) * num_experts + column
    tl.store(at, tl.sum(hit.to(tl.int32), axis=0), mask=column < num_experts)


@triton.jit(do_not_specialize=["pairs", "first_expert", "num_experts", "chunks", "blocks"])
def place(
    ids, counts, slots, block_experts, pairs, first_expert, num_experts, chunks, blocks,
    CHUNK: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_M: tl.constexpr, COUNTED: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Sort pairs by expert, stably, into blocks of BLOCK_M slots that hold one expert each.

    `slots` int32 [blocks * BLOCK_M]: a pair's number, or `pairs` where an expert's last block is
    not full. `block_experts` int32 [blocks]: a block's expert, at least `num_experts` for unused
    ones, whose slots are left unwritten. COUNTED: `counts` holds what `count` made; otherwise there
    is one chunk, counted here. Every slot is written by one program once, so order cannot matter.
    """
    _wait(OVERLAP)
    chunk = tl.program_id(0)
    pair, hit = _chosen(ids, pairs, first_expert, num_experts, CHUNK, COLUMNS)
    hits = hit.to(tl.int32)
    column = tl.arange(0, COLUMNS)
    before = tl.zeros((COLUMNS,), tl.int32)
    total = tl.zeros((COLUMNS,), tl.int32)
    if COUNTED:
        for first in range(0, chunks, 16):
            other = first + tl.arange(0, 16)
            inside = (other[:, None] < chunks) & (column[None, :] < num_experts)
            at = counts + other[:, None] * num_experts + column[None, :]
            tile = tl.load(at, mask=inside, other=0)
            total += tl.sum(tile, axis=0)
            before += tl.sum(tl.where(other[:, None] < chunk, tile, 0), axis=0)
    else:
        total += tl.sum(hits, axis=0)

    first_block, end = _blocks_of(total, BLOCK_M)
    start = first_block * BLOCK_M
    rank = tl.cumsum(hits, axis=0) - 1
    slot = tl.sum(tl.where(hit, rank + (start + before)[None, :], 0), axis=1)
    tl.store(slots + slot, pair, mask=tl.sum(hits, axis=1) > 0)

    if chunk == 0:
        part: tl.constexpr = 8 if BLOCK_M > 8 else BLOCK_M
        nobody = tl.zeros((COLUMNS, part), tl.int32) + pairs
        for first in range(0, BLOCK_M, part):
            free = (start + total)[:, None] + (first + tl.arange(0, part))[None, :]
            tl.store(slots + free, nobody, mask=free < (end * BLOCK_M)[:, None])
        for first in range(0, blocks, 16):
            block = first + tl.arange(0, 16)
            done = (end[None, :] <= block[:, None]).to(tl.int32)
            tl.store(block_experts + block, tl.sum(done, axis=1), mask=block < blocks)


@triton.jit(do_not_specialize=["first_expert", "num_experts"])
def combine(
    partial, ids, weights, out, first_expert, num_experts,
    N: tl.constexpr, TOP_K: tl.constexpr, BLOCK_N: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """out [T, N] = sum over a token's experts of weight * partial [T * TOP_K, N], in FP32.

    Always in the order of the choices, so the same input gives the same bits. Rows of experts that
    are not here are not read: nobody wrote them.
    """
    tiles: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    token = (tl.program_id(0) // tiles).to(tl.int64)
    n = (tl.program_id(0) % tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_N,), tl.float32)
    _wait(OVERLAP)
    for choice in tl.static_range(TOP_K):
        pair = token * TOP_K + choice
        expert = tl.load(ids + pair) - first_expert
        here = (expert >= 0) & (expert < num_experts)
        weight = tl.load(weights + pair, mask=here, other=0.0)
        stop = tl.where(here, N, 0)
        values = tl.load(partial + pair * N + n, mask=n < stop, other=0.0)
        total += weight * values.to(tl.float32)
    tl.store(out + token * N + n, total.to(out.dtype.element_ty), mask=n < N)


@triton.jit(do_not_specialize=["tokens", "first_expert", "num_experts", "blocks"])
def route(
    logits, bias, scaling, ids, weights, slots, block_experts, tokens, first_expert, num_experts,
    blocks, EXPERTS: tl.constexpr, COLUMNS: tl.constexpr, TOP_K: tl.constexpr, KEPT: tl.constexpr,
    ROWS: tl.constexpr, PLACE: tl.constexpr, BLOCK_M: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The router's choice for ROWS tokens: of `logits` float32 [T, EXPERTS] the TOP_K experts with
    the largest sigmoid(logit) + bias, `ids` int32 [T, TOP_K] in falling order, and `weights`
    float32 [T, TOP_K]: their sigmoids over the sum of these, times `scaling` float32 [1].

    A NaN is chosen first and makes all of its token's weights NaN. PLACE, for one program: sort
    the pairs into blocks as `place` does, too. COLUMNS and KEPT are EXPERTS and TOP_K rounded up
    to powers of two.
    """
    _wait(OVERLAP)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    real = (row < tokens)[:, None] & (column < EXPERTS)[None, :]
    at = logits + row.to(tl.int64)[:, None] * EXPERTS + column[None, :]
    score = 1.0 / (1.0 + tl.exp(-tl.load(at, mask=real, other=0.0)))
    key = score + tl.load(bias + column, mask=column < EXPERTS, other=0.0)[None, :]
    key = tl.maximum(tl.where(key == key, key, float("inf")), LOWEST_KEY)
    key = tl.where(column[None, :] < EXPERTS, key, float("-inf"))

    choice = tl.arange(0, KEPT)
    chosen = tl.zeros((ROWS, KEPT), tl.int32)
    kept = tl.zeros((ROWS, KEPT), tl.float32)
    pair = tl.full((ROWS, COLUMNS), -1, tl.int32)
    for j in tl.static_range(TOP_K):
        best = tl.argmax(key, axis=1)
        hit = column[None, :] == best[:, None]
        value = tl.sum(tl.where(hit, score, 0.0), axis=1)
        chosen = tl.where(choice[None, :] == j, best[:, None], chosen)
        kept = tl.where(choice[None, :] == j, value[:, None], kept)
        pair = tl.where(hit, (row * TOP_K + j)[:, None], pair)
        key = tl.where(hit, float("-inf"), key)
    kept = kept / (tl.sum(kept, axis=1) + 1e-20)[:, None] * tl.load(scaling)
    to = row[:, None] * TOP_K + choice[None, :]
    stored = (row < tokens)[:, None] & (choice < TOP_K)[None, :]
    tl.store(ids + to, chosen, mask=stored)
    tl.store(weights + to, kept, mask=stored)

    if PLACE:
        local = column - first_expert
        mine = (local >= 0) & (local < num_experts)
        hit = (pair >= 0) & mine[None, :] & (row < tokens)[:, None]
        hits = hit.to(tl.int32)
        count = tl.sum(hits, axis=0)
        start, end = _blocks_of(count, BLOCK_M)
        slot = start[None, :] * BLOCK_M + tl.cumsum(hits, axis=0) - hits
        tl.store(slots + slot, pair, mask=hit)
        filling = (start * BLOCK_M + count)[:, None] + tl.arange(0, BLOCK_M)[None, :]
        nobody = tl.zeros((COLUMNS, BLOCK_M), tl.int32) + tokens * TOP_K
        tl.store(slots + filling, nobody, mask=filling < (end * BLOCK_M)[:, None])
        for further in tl.static_range((ROWS + BLOCK_M - 1) // BLOCK_M):
            tl.store(block_experts + start + further, local, mask=start + further < end)
        total = tl.max(end, axis=0)
        for first in range(0, blocks, 64):
            free = first + tl.arange(0, 64)
            tl.store(
                block_experts + free,
                tl.zeros((64,), tl.int32) + num_experts,
                mask=(free >= total) & (free < blocks),
            )
