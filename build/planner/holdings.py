"""What each of several GPUs holds of a model: weights by role, KV cache and Mamba state.

Splits are those of TensorRT-LLM's and vLLM's Nemotron-H with tensor and expert parallel sizes of N:
routed experts, Mamba, shared experts, queries, embedding and head are divided; keys and values as
far as there are heads; routers, norms and latent projections are whole on every GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ...model.architecture import DTYPE_BYTES, Model, Role
from ...model.recipe import Recipe
from ...model.weight_format import MODELOPT

WHOLE_ROLES: Final = frozenset({Role.NORM, Role.ROUTER, Role.ROUTER_BIAS, Role.LATENT})

UNLOADED_ROLES: Final = frozenset({Role.MTP})
"""Lies in the checkpoint, and is loaded for speculative decoding only."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Of one model in one kind: bytes and values (parameters) by role, of all GPUs together, and
    the values whose products are of FP8 operands.

    `stored_bytes` is the checkpoint's size. `kv_weight_bytes` is that part of the attention's bytes
    which its keys' and values' projections take. `quantized` are the roles of which the kind
    quantizes tensors.
    """

    model: Model
    stored_bytes: int
    bytes_by_role: Mapping[Role, int]
    values_by_role: Mapping[Role, int]
    fp8_values_by_role: Mapping[Role, int]
    kv_weight_bytes: int
    quantized: frozenset[Role]

    def weight_bytes(self, gpus: int) -> int:
        """Bytes of weights that the fullest of `gpus` GPUs loads."""
        held = 0
        for role, size in self.bytes_by_role.items():
            if role in UNLOADED_ROLES:
                continue
            if role is Role.ATTENTION:
                held += self._attention_bytes(size, gpus)
            else:
                held += size if role in WHOLE_ROLES else -(-size // gpus)
        return held

    def _attention_bytes(self, size: int, gpus: int) -> int:
        """Queries and output are divided, keys and values by whole heads."""
        heads = self.model.attention.num_kv_heads
        kv = self.kv_weight_bytes * kv_heads_each(heads, gpus) // heads
        return -(-(size - self.kv_weight_bytes) // gpus) + kv

    def kv_bytes_per_token(self, dtype: str, gpus: int) -> int:
        """KV cache bytes of one token on one of `gpus` GPUs."""
        attention = self.model.attention
        values = 2 * kv_heads_each(attention.num_kv_heads, gpus) * attention.head_dim
        return self.model.layer_count("*") * int(values * DTYPE_BYTES[dtype])

    def state_bytes_per_sequence(self, dtype: str, gpus: int) -> int:
        """Mamba state bytes of one sequence on one of `gpus` GPUs."""
        return -(-self.model.state_bytes_per_sequence(dtype) // gpus)


def kv_heads_each(heads: int, gpus: int) -> int:
    """Key and value heads on each GPU: at least one, copied where there are more GPUs."""
    return -(-heads // gpus)


def holdings(model: Model, recipe: Recipe, layout: str = MODELOPT) -> Holdings:
    """What `model` takes in the format of `recipe` and a layout. Raises `RefusedError` naming the
    tensor whose widths do not divide into its groups."""
    sizes: dict[Role, int] = {}
    values: dict[Role, int] = {}
    fp8: dict[Role, int] = {}
    quantized: set[Role] = set()
    kv_weights = 0
    for group in model.tensors():
        size = recipe.bytes_of(group, layout)
        sizes[group.role] = sizes.get(group.role, 0) + size
        values[group.role] = values.get(group.role, 0) + group.parameters
        if kind := recipe.format_of(group):
            quantized.add(group.role)
            if kind.key == "fp8":
                fp8[group.role] = fp8.get(group.role, 0) + group.parameters
        if group.makes_kv:
            kv_weights += size
    return Holdings(
        model=model,
        stored_bytes=sum(sizes.values()),
        bytes_by_role=sizes,
        values_by_role=values,
        fp8_values_by_role=fp8,
        kv_weight_bytes=kv_weights,
        quantized=frozenset(quantized),
    )
