"""Upstream's choice of experts in one launch of ours, where that chooses the same.

TensorRT-LLM's `DeepSeekV3MoeRoutingMethod` holds what it chooses by: `routing_impl` with `top_k`,
`n_group`, `topk_group` and `routed_scaling_factor`, and `callable_e_score_correction_bias`
(modules/fused_moe/routing.py @blob 51828280080). With one group, which Nemotron 3 has, it takes a
path of about six small launches a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor

from .. import kernels


class Routing(Protocol):
    """Upstream's routing methods."""

    def apply(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Expert numbers int32 [T, k] and their weights float32 [T, k] for logits [T, experts]."""


CHECKED_TOKENS: Final = (1, 8, 16, 100)
"""Numbers of tokens for which choices are compared."""

_TOLERANCE: Final = 1e-5


class RouterError(ValueError):
    """Upstream's routing is not what our kernel computes; the message says in what."""


def made_up(rows: int, width: int) -> Tensor:
    """Values float32 [rows, width] on the CPU: the same on every machine, whatever default device
    and dtype upstream loads with."""
    source = torch.Generator("cpu").manual_seed(rows)
    return torch.randn((rows, width), generator=source, device="cpu", dtype=torch.float32)


def own_router(routing: Routing, experts: int, device: torch.device) -> kernels.Router:
    """The router of our kernel that chooses among `experts` as `routing` does.

    Reads upstream's correction bias, so weights must be loaded. Raises `RouterError` where
    `routing` is of another kind, or chooses otherwise on made-up logits.
    """
    implementation: Any = getattr(routing, "routing_impl", None)
    bias = getattr(routing, "callable_e_score_correction_bias", None)
    names = ("top_k", "n_group", "topk_group", "routed_scaling_factor")
    missing = [name for name in names if not hasattr(implementation, name)]
    if bias is None or missing:
        raise RouterError(f"{type(routing).__name__} is not the routing method that it knows")
    groups = implementation.n_group, implementation.topk_group
    if groups != (1, 1):
        raise RouterError(f"experts are chosen in {groups[0]} groups")
    factor = float(implementation.routed_scaling_factor)
    router = kernels.Router(
        cast("Callable[[], Tensor]", bias)().detach().to(device, torch.float32),
        torch.full((1,), factor, dtype=torch.float32, device=device),
        int(implementation.top_k),
    )
    _compare(routing, router, experts, device)
    return router


def _compare(routing: Routing, router: kernels.Router, experts: int, device: torch.device) -> None:
    for tokens in CHECKED_TOKENS:
        logits = made_up(tokens, experts).to(device)
        ids, weights = kernels.route(logits, router)
        wanted_ids, wanted_weights = routing.apply(logits)
        order, wanted_order = ids.argsort(dim=1), wanted_ids.argsort(dim=1)
        if not torch.equal(ids.gather(1, order).long(), wanted_ids.gather(1, wanted_order).long()):
            raise RouterError(f"it chooses other experts for {tokens} tokens")
        difference = weights.gather(1, order) - wanted_weights.float().gather(1, wanted_order)
        if not float(difference.abs().max()) <= _TOLERANCE * max(1.0, float(router.scaling)):
            raise RouterError(f"it weighs the experts of {tokens} tokens otherwise")
