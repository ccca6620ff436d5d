"""Random layers, and what they must give: the product in float64 on dequantized weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nemotron_deploy.build import kernels
from nemotron_deploy.build.kernels import layout
from nemotron_deploy.build.kernels.layout import SCALE_DIVISORS
from nemotron_deploy.runtime import formats

DIVISORS = [(bits, divisor) for bits in layout.BITS for divisor in (0, *SCALE_DIVISORS[bits])]
"""Bits of a weight, and what scales are BF16 numbers over; 0 for FP32 scales."""

BOUND = 0.01
"""Largest relative error: |out - reference| / |reference|."""

Stored = tuple[Tensor, Tensor, Tensor, Tensor]


def stored(
    count: int,
    hidden: int,
    width: int,
    group: int,
    seed: int = 0,
    bits: int = 4,
    scale_divisor: int = 0,
) -> Stored:
    """Random stored weights: every byte value occurs, so every pair of nibbles does. INT8's scales
    are smaller, so that values stay in the same range. With `scale_divisor`, scales are BF16
    numbers over it."""
    source = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> tuple[Tensor, Tensor]:
        size = (count, rows * bits // 8, columns)
        packed = torch.randint(0, 256, size, dtype=torch.uint8, generator=source)
        places = (count, rows, columns // group) if group else (count, rows)
        scale = (torch.rand(places, generator=source) / 8 + 0.01) / (1 if bits == 4 else 16)
        if scale_divisor:
            scale = (scale * scale_divisor).bfloat16().float() / scale_divisor
        return packed if bits == 4 else packed.view(torch.int8), scale

    return (*matrix(width, hidden), *matrix(hidden, width))


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights as stored and packed."""

    weights: Stored
    experts: kernels.PackedExperts

    @classmethod
    def random(
        cls,
        count: int,
        hidden: int,
        width: int,
        group: int,
        seed: int = 0,
        bits: int = 4,
        scale_divisor: int = 0,
    ) -> Layer:
        weights = stored(count, hidden, width, group, seed, bits, scale_divisor)
        return cls(weights, kernels.pack(*weights))

    def expected(self, hidden: Tensor, ids: Tensor, weights: Tensor, first: int = 0) -> Tensor:
        """Float64 [T, H], from the stored tensors by the stored layout's own decoder."""
        up, up_scale, down, down_scale = self.weights
        total = torch.zeros(hidden.shape, dtype=torch.float64)
        for expert in range(up.shape[0]):
            token, choice = (ids - first == expert).nonzero(as_tuple=True)
            inner = hidden[token].double() @ values(up[expert], up_scale[expert]).double().T
            part = inner.relu().square() @ values(down[expert], down_scale[expert]).double().T
            total.index_add_(0, token, part * weights[token, choice].double().unsqueeze(1))
        return total


def values(packed: Tensor, scale: Tensor) -> Tensor:
    """A stored matrix, float32, by the stored layout's own decoder; INT4 of whole rows is not one
    of its formats, so such scales are given as groups as wide as a row."""
    return formats.decode(packed, scale.view(len(scale), -1))


def activations(tokens: int, hidden: int, seed: int = 0) -> Tensor:
    """FP16 [T, H], small enough that relu2 stays far from FP16's largest number."""
    source = torch.Generator().manual_seed(seed)
    return (torch.randn(tokens, hidden, generator=source) / 8).half()


def relative_error(out: Tensor, expected: Tensor) -> float:
    """|out - expected| / |expected|; 0 where both are all zero; NaN where `out` holds one."""
    difference = (out.double() - expected).norm()
    return float(difference / expected.norm()) if expected.any() else float(difference)
