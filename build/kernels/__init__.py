"""INT4 mixture-of-experts kernels for experts without a gate: `down(relu2(up(x)))`.

    experts = pack(up, up_scale, down, down_scale)          # once, at load
    out = moe(hidden, expert_ids, expert_weights, experts)  # [T, H] -> [T, H]

Stands alone: depends on torch and, on a GPU, on triton; `build` copies the folder into engines.
Nothing in here has run on a GPU yet: results are held by Triton's interpreter, machine code by the
compiler's reports, speed by nothing.
"""

from .op import moe, shared
from .packing import PackedExperts, PackError, pack, shapes, unpack

__all__ = ["PackError", "PackedExperts", "moe", "pack", "shapes", "shared", "unpack"]
