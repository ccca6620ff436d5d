"""The same layer in plain torch: the CPU's implementation, and the GPU's yardstick.

Slow and clear: weights are decoded one expert at a time and multiplied in FP32, nothing is rounded
before the end. It looks at the choices on the host, so it is no path for a GPU that serves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .packing import PackedExperts, decode


def reference_moe(
    hidden: Tensor, ids: Tensor, weights: Tensor, experts: PackedExperts, first_expert: int
) -> Tensor:
    """hidden [T, H], ids int [T, k], weights float [T, k] -> [T, H] in the dtype of `hidden`."""
    total = torch.zeros_like(hidden, dtype=torch.float32)
    local = ids.long() - first_expert
    for expert in range(experts.count):
        token, choice = (local == expert).nonzero(as_tuple=True)
        if len(token):
            part = _expert(hidden[token].float(), experts, expert)
            total.index_add_(0, token, part * weights[token, choice].float().unsqueeze(1))
    return total.to(hidden.dtype)


def reference_route(
    logits: Tensor, bias: Tensor, scaling: Tensor, top_k: int
) -> tuple[Tensor, Tensor]:
    """logits float32 [T, E], bias [E], scaling [1] -> ids int32 [T, k], weights float32 [T, k]."""
    scores = logits.sigmoid()
    ids = (scores + bias).topk(top_k, dim=1).indices
    chosen = scores.gather(1, ids)
    weights = chosen / (chosen.sum(dim=1, keepdim=True) + 1e-20) * scaling
    return ids.to(torch.int32), weights


def reference_shared(hidden: Tensor, experts: PackedExperts) -> Tensor:
    """hidden [T, H] -> [T, H]: every token through expert 0."""
    return _expert(hidden.float(), experts, 0).to(hidden.dtype)


def _expert(rows: Tensor, experts: PackedExperts, expert: int) -> Tensor:
    """down(relu2(up(rows))) of one expert, float32."""
    group, divisor = experts.group, experts.scale_divisor
    up = decode(experts.up[expert], experts.up_scale[expert], experts.hidden, group, divisor)
    inner = torch.relu(rows @ up.t()).square()
    down = decode(experts.down[expert], experts.down_scale[expert], experts.width, group, divisor)
    return inner @ down.t()
