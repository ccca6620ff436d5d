"""The torch ops: routed experts and the shared expert, each one node to `torch.compile`.

    nemo_deploy::packed_moe         hidden, expert_ids, expert_weights, packed weights -> [T, H]
    nemo_deploy::packed_routed_moe  hidden, the router's logits and bias, packed weights -> [T, H]
    nemo_deploy::packed_shared      hidden, packed weights -> [T, H]

On CUDA they launch the Triton kernels: no synchronisation with the host, and memory whose size
follows from shapes alone, so that CUDA graphs capture them. On the CPU they are the reference in
plain torch, unless Triton interprets (TRITON_INTERPRET=1) and the activations are FP16, which runs
the kernels themselves. BF16 never takes that way: Triton's interpreter computes it wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.library import custom_op

from . import launch, reference, steps
from .configs import Tile
from .interpreter import interpreting
from .layout import GROUPS, ROW
from .packing import PackedExperts

_WEIGHTS = (
    "Tensor up, Tensor up_scale, Tensor down, Tensor down_scale, int group, int scale_divisor"
)
_INTERPRETED_SM = 80


def moe(
    hidden: Tensor,
    expert_ids: Tensor,
    expert_weights: Tensor,
    experts: PackedExperts,
    first_expert: int = 0,
) -> Tensor:
    """Routed experts: for each token the weighted sum of down(relu(up(x))^2) over its experts.

    `hidden` [T, H] bf16 or fp16, `expert_ids` int32 [T, k], `expert_weights` float32 [T, k] ->
    [T, H] in the dtype of `hidden`. Ids count from `first_expert`, the number of the first expert
    that `experts` holds; ids outside of them (-1, or an expert of another rank) contribute nothing.
    The result is this rank's part of the sum. Sums are FP32; between the products activations are
    rounded to their own dtype, so in FP16 inner values above 255 overflow when squared, as they do
    in any FP16 execution of this model.

    A shared expert twice as wide can ride along as two more experts of weight 1 that every token
    chooses: relu2 knows no mixing across the width.

    Raises ValueError where shapes or dtypes do not fit together.
    """
    _check_hidden(hidden, experts)
    if expert_ids.dtype is not torch.int32 or expert_weights.dtype is not torch.float32:
        raise ValueError(
            f"expert_ids is {expert_ids.dtype} and expert_weights {expert_weights.dtype}; "
            "int32 and float32 are expected"
        )
    shape = expert_ids.shape
    if len(shape) != 2 or shape != expert_weights.shape or shape[0] != hidden.shape[0]:
        raise ValueError(
            f"expert_ids {list(shape)} and expert_weights {list(expert_weights.shape)} do not fit "
            f"{hidden.shape[0]} tokens"
        )
    result: Tensor = torch.ops.nemo_deploy.packed_moe(
        hidden, expert_ids, expert_weights, *_weights_of(experts), first_expert
    )
    return result


@dataclass(frozen=True, slots=True)
class Router:
    """How a token's experts are chosen: the `top_k` with the largest sigmoid(logit) + `bias`, and
    their weights: the sigmoids over the sum of these, times `scaling`.

    `bias` float32 [experts of all ranks], `scaling` float32 [1].
    """

    bias: Tensor
    scaling: Tensor
    top_k: int


def route(logits: Tensor, router: Router) -> tuple[Tensor, Tensor]:
    """(ids int32 [T, k] in falling order of what they were chosen by, weights float32 [T, k]) for
    logits float32 [T, experts]; what `routed_moe` computes with. Raises ValueError as that does."""
    _check_router(logits, router)
    if not (logits.is_cuda or interpreting()):
        return reference.reference_route(logits, router.bias, router.scaling, router.top_k)
    ids = launch.empty((len(logits), router.top_k), torch.int32, logits)
    weights = launch.empty((len(logits), router.top_k), torch.float32, logits)
    tensors = _router_tensors(logits, router) | {"expert_ids": ids, "expert_weights": weights}
    tensors["hidden"] = logits.new_empty(0, dtype=torch.bfloat16)  # says on which device
    launch.run(steps.route(logits.shape[1], router.top_k, len(logits), _sm(logits)), tensors, 0)
    return ids, weights


def routed_moe(
    hidden: Tensor, logits: Tensor, router: Router, experts: PackedExperts, first_expert: int = 0
) -> Tensor:
    """`moe`, with the experts that `router` chooses of `logits` float32 [T, experts of all ranks].

    One launch chooses, and up to 16 tokens it sorts, too. A token with a NaN among its logits comes
    out as NaN. Raises ValueError as `moe` does.
    """
    _check_hidden(hidden, experts)
    _check_router(logits, router)
    if len(logits) != len(hidden):
        raise ValueError(f"logits are of {len(logits)} tokens and hidden of {len(hidden)}")
    result: Tensor = torch.ops.nemo_deploy.packed_routed_moe(
        hidden, logits, router.bias, router.scaling, *_weights_of(experts),
        router.top_k, first_expert,
    )  # fmt: skip
    return result


def shared(hidden: Tensor, experts: PackedExperts) -> Tensor:
    """The shared expert: down(relu(up(x))^2) of every token, `experts` holding exactly one.

    `hidden` [T, H] bf16 or fp16 -> [T, H]. Raises ValueError as `moe` does.
    """
    _check_hidden(hidden, experts)
    if experts.count != 1:
        raise ValueError(f"the shared expert is one, and {experts.count} were packed")
    result: Tensor = torch.ops.nemo_deploy.packed_shared(hidden, *_weights_of(experts))
    return result


def _check_hidden(hidden: Tensor, experts: PackedExperts) -> None:
    if hidden.dtype not in launch.ACTIVATIONS:
        raise ValueError(f"hidden is {hidden.dtype}; bfloat16 or float16 is expected")
    if hidden.dim() != 2 or hidden.shape[1] != experts.hidden:
        raise ValueError(
            f"hidden is {list(hidden.shape)}; the experts are packed for [T, {experts.hidden}]"
        )


def _check_router(logits: Tensor, router: Router) -> None:
    tensors = {"logits": logits, "bias": router.bias, "scaling": router.scaling}
    for name, tensor in tensors.items():
        if tensor.dtype is not torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; float32 is expected")
    if logits.dim() != 2 or router.bias.shape != logits.shape[1:] or router.scaling.shape != (1,):
        raise ValueError(
            f"logits {list(logits.shape)}, bias {list(router.bias.shape)} and scaling "
            f"{list(router.scaling.shape)} do not fit together"
        )
    if not 0 < router.top_k <= logits.shape[1]:
        raise ValueError(f"{router.top_k} of {logits.shape[1]} experts cannot be chosen")


def _router_tensors(logits: Tensor, router: Router) -> dict[str, Tensor]:
    return {
        "logits": _aligned(logits),
        "bias": _aligned(router.bias),
        "scaling": _aligned(router.scaling),
    }


def _tensors(experts: PackedExperts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return experts.up, experts.up_scale, experts.down, experts.down_scale


def _weights_of(experts: PackedExperts) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int]:
    """What an op's schema calls `_WEIGHTS`."""
    return *_tensors(experts), experts.group, experts.scale_divisor


@custom_op(
    "nemo_deploy::packed_moe",
    mutates_args=(),
    schema=f"(Tensor hidden, Tensor expert_ids, Tensor expert_weights, {_WEIGHTS}, "
    "int first_expert) -> Tensor",
)
def _moe(
    hidden: Tensor,
    expert_ids: Tensor,
    expert_weights: Tensor,
    up: Tensor,
    up_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    group: int,
    scale_divisor: int,
    first_expert: int,
) -> Tensor:
    experts = _packed(up, up_scale, down, down_scale, hidden.shape[1], group, scale_divisor)
    if _use_reference(hidden):
        return reference.reference_moe(hidden, expert_ids, expert_weights, experts, first_expert)
    return routed_kernels(hidden, expert_ids, expert_weights, experts, first_expert)


@custom_op(
    "nemo_deploy::packed_routed_moe",
    mutates_args=(),
    schema=f"(Tensor hidden, Tensor logits, Tensor bias, Tensor scaling, {_WEIGHTS}, int top_k, "
    "int first_expert) -> Tensor",
)
def _routed_moe(
    hidden: Tensor,
    logits: Tensor,
    bias: Tensor,
    scaling: Tensor,
    up: Tensor,
    up_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    group: int,
    scale_divisor: int,
    top_k: int,
    first_expert: int,
) -> Tensor:
    experts = _packed(up, up_scale, down, down_scale, hidden.shape[1], group, scale_divisor)
    if _use_reference(hidden):
        ids, weights = reference.reference_route(logits, bias, scaling, top_k)
        return reference.reference_moe(hidden, ids, weights, experts, first_expert)
    return router_kernels(hidden, logits, Router(bias, scaling, top_k), experts, first_expert)


@custom_op(
    "nemo_deploy::packed_shared",
    mutates_args=(),
    schema=f"(Tensor hidden, {_WEIGHTS}) -> Tensor",
)
def _shared(
    hidden: Tensor,
    up: Tensor,
    up_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    group: int,
    scale_divisor: int,
) -> Tensor:
    experts = _packed(up, up_scale, down, down_scale, hidden.shape[1], group, scale_divisor)
    if _use_reference(hidden):
        return reference.reference_shared(hidden, experts)
    return shared_kernels(hidden, experts)


@_moe.register_fake
def _(hidden: Tensor, *_: object) -> Tensor:
    return hidden.new_empty(hidden.shape)


@_routed_moe.register_fake
def _(hidden: Tensor, *_: object) -> Tensor:
    return hidden.new_empty(hidden.shape)


@_shared.register_fake
def _(hidden: Tensor, *_: object) -> Tensor:
    return hidden.new_empty(hidden.shape)


def routed_kernels(
    hidden: Tensor,
    expert_ids: Tensor,
    expert_weights: Tensor,
    experts: PackedExperts,
    first_expert: int = 0,
    tile: Tile | None = None,
) -> Tensor:
    """`moe` through the Triton kernels, with another tile than the table's where one is given."""
    tokens, top_k = expert_ids.shape
    out = launch.empty(tuple(hidden.shape), hidden.dtype, hidden)
    if tokens == 0:
        return out
    if top_k == 0:
        return out.zero_()
    shape = _shape(experts, top_k)
    tensors = {
        **_weights(experts),
        "hidden": _aligned(hidden),
        "expert_ids": _aligned(expert_ids),
        "expert_weights": _aligned(expert_weights),
        "out": out,
    }
    launch.run(steps.routed(shape, tokens, _sm(hidden), tile), tensors, first_expert)
    return out


def router_kernels(
    hidden: Tensor,
    logits: Tensor,
    router: Router,
    experts: PackedExperts,
    first_expert: int = 0,
    tile: Tile | None = None,
) -> Tensor:
    """`routed_moe` through the Triton kernels, with another tile than the table's where one is
    given."""
    out = launch.empty(tuple(hidden.shape), hidden.dtype, hidden)
    if hidden.shape[0] == 0:
        return out
    shape = _shape(experts, router.top_k, logits.shape[1])
    tensors = _router_tensors(logits, router) | _weights(experts)
    tensors |= {"hidden": _aligned(hidden), "out": out}
    launch.run(steps.routed(shape, len(hidden), _sm(hidden), tile), tensors, first_expert)
    return out


def shared_kernels(hidden: Tensor, experts: PackedExperts, tile: Tile | None = None) -> Tensor:
    """`shared` through the Triton kernels."""
    out = launch.empty(tuple(hidden.shape), hidden.dtype, hidden)
    if hidden.shape[0] == 0:
        return out
    shape = _shape(experts, top_k=1)
    tensors = {**_weights(experts), "hidden": _aligned(hidden), "out": out}
    launch.run(steps.shared(shape, hidden.shape[0], _sm(hidden), tile), tensors, 0)
    return out


def _packed(
    up: Tensor,
    up_scale: Tensor,
    down: Tensor,
    down_scale: Tensor,
    hidden: int,
    group: int,
    scale_divisor: int,
) -> PackedExperts:
    """The record again from an op's arguments."""
    if group not in (*GROUPS, ROW):
        raise ValueError(f"group size {group} is none of {GROUPS}, nor {ROW} for whole rows")
    return PackedExperts(up, up_scale, down, down_scale, hidden, up.shape[2], group, scale_divisor)


def _shape(experts: PackedExperts, top_k: int, routes: int = 0) -> steps.Shape:
    return steps.Shape(
        experts.hidden,
        experts.width,
        experts.count,
        top_k,
        experts.group,
        experts.bits,
        routes,
        experts.scale_divisor,
    )


def _weights(experts: PackedExperts) -> dict[str, Tensor]:
    names = ("up", "up_scale", "down", "down_scale")
    return dict(zip(names, _tensors(experts), strict=True))


def _use_reference(hidden: Tensor) -> bool:
    if hidden.is_cuda:
        return False
    return hidden.dtype is not torch.float16 or not interpreting()


def _sm(hidden: Tensor) -> int:
    return launch.sm_of(hidden.device.index) if hidden.is_cuda else _INTERPRETED_SM


def _aligned(tensor: Tensor) -> Tensor:
    """Contiguous and at a multiple of 16 bytes, as the compiled kernels assume."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor
