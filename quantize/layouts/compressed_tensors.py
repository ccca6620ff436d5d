"""vLLM's pack-quantized layout of INT4 and INT8 weights (W4A16, W8A16), as the package
`compressed-tensors` defines it.

The one layout of which a released engine runs such experts of this model on A100 and H100.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ...model.architecture import Model, Role, TensorGroup
from ...model.recipe import INTEGER_BITS, Recipe, StoredTensor
from .base import Layout, Reader

if TYPE_CHECKING:
    from torch import Tensor

    from ...runtime.formats import Deviation

VERSION: Final = "0.20.0"
"""The release of `compressed-tensors` that the result was tested with."""

FORMAT: Final = "pack-quantized"

_READERS: Final = (
    Reader(
        "vLLM from 0.24 on (A100, H100 and other GPUs from SM80 on; several GPUs by expert "
        "parallelism)",
        "vllm serve {path} --mamba-backend triton --reasoning-parser nemotron_v3 "
        "--enable-expert-parallel",
    ),
)


def _stored(recipe: Recipe, group: TensorGroup) -> tuple[StoredTensor, ...]:
    recipe.require_divisible(group)
    rows, columns = group.shape
    return (
        StoredTensor("weight_packed", "I32", (rows, columns * recipe.integer_bits // 32)),
        StoredTensor("weight_scale", "BF16", (rows, columns // (recipe.group_size or columns))),
        StoredTensor("weight_shape", "I64", (2,)),
    )


def _encode(
    weight: Tensor, recipe: Recipe, deviation: Deviation | None = None
) -> dict[str, Tensor]:
    import torch

    from ...runtime import formats

    eight_bits = recipe.integer_bits == 8
    encode = formats.encode_int8_columns if eight_bits else formats.encode_int4_columns
    packed, scale = encode(weight, recipe.group_size, deviation)
    shape = torch.tensor(weight.shape, dtype=torch.int64)
    return {"weight_packed": packed, "weight_scale": scale, "weight_shape": shape}


def ignored_patterns(model: Model, recipe: Recipe) -> list[str]:
    """Patterns of the modules that stay unquantized.

    vLLM matches them after it has renamed the checkpoint's prefix, so they begin where all
    spellings agree: `mixer.` inside a layer. Each matches a tensor, none matches a quantized one.
    """
    patterns: set[str] = set()
    for group in model.tensors():
        if recipe.quantizes(group) or len(group.shape) < 2:
            continue
        module = group.template.rpartition(".")[0]
        if group.role is Role.MTP:
            patterns.add(r"re:(.*\.)?mtp\..*")
        elif group.role is Role.EMBEDDING:
            patterns.add(r"re:.*(embeddings|embed_tokens)$")
        elif ".mixer." in module:
            patterns.add(rf"re:.*mixer\.{re.escape(module.partition('.mixer.')[2])}$")
        else:
            patterns.add(rf"re:.*{re.escape(module)}$")
    return sorted(patterns)


def _configuration(
    config: Mapping[str, Any], model: Model, recipe: Recipe, kv_scales: bool
) -> dict[str, dict[str, Any]]:
    weights = {
        "num_bits": recipe.integer_bits,
        "type": "int",
        "symmetric": True,
        "strategy": "group" if recipe.group_size else "channel",
        "group_size": recipe.group_size or None,
        "dynamic": False,
    }
    # Target and ignore list, not a pattern of our projections: vLLM also looks up the scheme of a
    # `gate_proj`, which this model does not have, and wants it to be the same.
    scheme = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": FORMAT,
    }
    quantization = {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
        "ignore": ignored_patterns(model, recipe),
        "kv_cache_scheme": None,
        "version": VERSION,
    }
    return {"config.json": {**config, "quantization_config": quantization}}


LAYOUT: Final = Layout(
    key="compressed-tensors",
    formats=frozenset(INTEGER_BITS),
    kv_scales=False,
    stored=_stored,
    encode=_encode,
    configuration=_configuration,
    readers=lambda recipe: _READERS,
)
