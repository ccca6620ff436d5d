"""A plugin for vLLM's CPU build that computes non-gated experts plainly. For tests only.

That build has Mamba and attention, but no kernels for experts without a gate, and without AVX-512
none for linear layers in INT4 or INT8. vLLM's own configuration, quantization methods and weight
loaders run as they are; then the products are computed here, in PyTorch, from what they loaded. So
what it shows is that vLLM *reads* a checkpoint right; its kernels are not involved.

vLLM loads it in each of its processes, through the entry point `vllm.general_plugins`. Written
against vLLM 0.32.0. The environment variable `PLAIN_EXPERTS_FAULT` makes it wrong on purpose.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

FAULT = "PLAIN_EXPERTS_FAULT"
"""`last_expert` leaves the last of the chosen experts out at every token."""


def install() -> None:
    """Replace what the CPU build refuses."""
    _allow_experts_without_a_gate()
    _plain_bf16()
    _plain_integers()
    _plain_fp8()
    _plain_linear()


def _allow_experts_without_a_gate() -> None:
    from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig

    check = FusedMoEConfig.__post_init__

    def without_that_check(self: Any) -> None:
        try:
            check(self)
        except NotImplementedError as error:
            if "is_act_and_mul=False" not in str(error):
                raise

    FusedMoEConfig.__post_init__ = without_that_check


def _plain_bf16() -> None:
    from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method as module
    from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend

    def load(self: Any, layer: Any) -> None:
        layer.plain = (layer.w13_weight.data, layer.w2_weight.data)

    module.select_unquantized_moe_backend = lambda moe_config: (
        UnquantizedMoeBackend.OOT,
        _NoKernel,
    )
    _replace(module.UnquantizedFusedMoEMethod, load)


def _plain_integers() -> None:
    from vllm.model_executor.layers.fused_moe.oracle.int_wna16 import WNA16MoEBackend
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe import (
        compressed_tensors_moe_wna16 as module,
    )

    def load(self: Any, layer: Any) -> None:
        layer.plain = tuple(
            unpacked(packed.data, scale.data, self.num_bits)
            for packed, scale in (
                (layer.w13_weight_packed, layer.w13_weight_scale),
                (layer.w2_weight_packed, layer.w2_weight_scale),
            )
        )

    module.select_wna16_moe_backend = lambda **given: (WNA16MoEBackend.CPU, _NoKernel)
    _replace(module.CompressedTensorsWNA16MoEMethod, load)


def _plain_fp8() -> None:
    from vllm.model_executor.layers.fused_moe.oracle.fp8 import Fp8MoeBackend
    from vllm.model_executor.layers.quantization import modelopt as module

    def load(self: Any, layer: Any) -> None:
        layer.plain = tuple(
            (weight.data.float() * scale.data.reshape(-1, 1, 1)).bfloat16()
            for weight, scale in (
                (layer.w13_weight, layer.w13_weight_scale),
                (layer.w2_weight, layer.w2_weight_scale),
            )
        )

    module.select_fp8_moe_backend = lambda **given: (Fp8MoeBackend.CPU, _NoKernel)
    _replace(module.ModelOptFp8MoEMethod, load)


def _plain_linear() -> None:
    from vllm.model_executor.kernels.linear.mixed_precision import cpu as module
    from vllm.scalar_type import scalar_types

    def load(self: Any, layer: Any) -> None:
        packed, scale = getattr(layer, self.w_q_name).data, getattr(layer, self.w_s_name).data
        bits = self.config.weight_type.size_bits
        layer.plain = unpacked(packed[None], scale[None], bits)[0]

    def apply(self: Any, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return torch.nn.functional.linear(x, layer.plain.to(x.dtype), bias)

    module._CPUWNA16_SUPPORTED_QUANT_TYPES += (scalar_types.uint8b128,)
    module.CPUWNA16LinearKernel.process_weights_after_loading = load
    module.CPUWNA16LinearKernel.apply_weights = apply


class _NoKernel:
    """In place of the class of an expert kernel."""

    @staticmethod
    def is_monolithic() -> bool:
        return False


def _replace(method: Any, load: Any) -> None:
    method.process_weights_after_loading = load
    method.apply = _experts


def _experts(
    self: Any,
    layer: Any,
    x: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    shared_experts: Any = None,
    shared_experts_input: Tensor | None = None,
) -> Tensor:
    """The chosen experts' weighted sum [tokens, hidden]; runs the shared experts, too."""
    if os.environ.get(FAULT) == "last_expert":
        topk_weights, topk_ids = topk_weights[:, :-1], topk_ids[:, :-1]
    up, down = layer.plain
    total = torch.zeros(x.shape, dtype=torch.float32)
    for expert in sorted(set(topk_ids.flatten().tolist())):
        tokens, place = (topk_ids == expert).nonzero(as_tuple=True)
        inner = torch.relu(x[tokens].float() @ up[expert].float().T).square()
        outer = inner.to(x.dtype).float() @ down[expert].float().T
        total.index_add_(0, tokens, outer * topk_weights[tokens, place].float()[:, None])
    if shared_experts is not None:
        from vllm.model_executor.layers.fused_moe.runner.shared_experts import SharedExpertsOrder

        shared_experts(shared_experts_input, SharedExpertsOrder.MK_INTERNAL_OVERLAPPED)
    return total.to(x.dtype)


def unpacked(packed: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Weights [experts, rows, columns] in BF16, from `pack-quantized` integers [experts, rows,
    columns * bits / 32] in INT32, the first in the lowest bits, and a scale for each group."""
    experts, rows, words = packed.shape
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    integers = ((packed[..., None] >> shifts) & (2**bits - 1)) - 2 ** (bits - 1)
    groups = integers.reshape(experts, rows, scale.shape[-1], -1).bfloat16()
    weights: Tensor = groups * scale[..., None].bfloat16()
    return weights.reshape(experts, rows, words * 32 // bits)
