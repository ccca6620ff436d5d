"""Mixture-of-experts kernels for experts without a gate, `down(relu2(up(x)))`, with INT4 or INT8
weights.

    experts = pack(up, up_scale, down, down_scale)          # once, at load
    out = moe(hidden, expert_ids, expert_weights, experts)  # [T, H] -> [T, H]
    out = routed_moe(hidden, router_logits, router, experts)  # chooses the experts, too

Stands alone: depends on torch and, on a GPU, on triton; `build` copies the folder into engines.
Run on an H200 with INT4 weights (docs/hardware.md of the project); otherwise results are held by
Triton's interpreter and machine code by the compiler's reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .op import Router, moe, route, routed_moe, shared
    from .packing import PackedExperts, PackError, pack, scale_divisor_of, shapes, unpack
    from .reference import reference_moe, reference_route, reference_shared

__all__ = [
    "PackError",
    "PackedExperts",
    "Router",
    "moe",
    "pack",
    "reference_moe",
    "reference_route",
    "reference_shared",
    "route",
    "routed_moe",
    "scale_divisor_of",
    "shapes",
    "shared",
    "unpack",
]


def __getattr__(name: str) -> Any:
    """Compiling needs neither torch nor the ops: they are imported when they are used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import op, packing, reference

    return next(
        getattr(module, name) for module in (op, packing, reference) if name in vars(module)
    )
