"""vLLM's pack-quantized layout of INT4 and INT8 weights (W4A16, W8A16), as the package
`compressed-tensors` defines it.

The one layout of which a released engine runs such experts of this model on A100 and H100.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ...model.architecture import Model, Role, TensorGroup
from ...model.recipe import Recipe
from ...model.weight_format import COMPRESSED_TENSORS, INTEGER_BITS, WeightFormat
from .base import PARSERS, Layout, Reader

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
        f"vllm serve {{path}} --mamba-backend triton {PARSERS} --enable-expert-parallel",
        "noonghunna/club-3090 pull request 721: Nemotron-3-Puzzle-75B with vLLM 0.24",
    ),
)


def _encode(
    weight: Tensor, kind: WeightFormat, deviation: Deviation | None = None
) -> dict[str, Tensor]:
    import torch

    from ...runtime import formats

    eight_bits = kind.integer_bits == 8
    encode = formats.encode_int8_columns if eight_bits else formats.encode_int4_columns
    packed, scale = encode(weight, kind.group_size, deviation)
    shape = torch.tensor(weight.shape, dtype=torch.int64)
    return {"weight_packed": packed, "weight_scale": scale, "weight_shape": shape}


def patterns(model: Model, recipe: Recipe) -> dict[WeightFormat | None, list[str]]:
    """Patterns of the modules of each format; those of None stay unquantized.

    vLLM matches them after it has renamed the checkpoint's prefix, so they begin where all
    spellings agree: `mixer.` inside a layer, or the layer's number where layers differ. Each
    matches a tensor, and none matches a tensor of another kind.
    """
    modules: dict[str, dict[WeightFormat | None, list[str]]] = {}
    for group in model.tensors():
        if len(group.shape) < 2:
            continue
        layer = "" if group.layer is None else str(group.layer)
        by_format = modules.setdefault(_pattern(group), {})
        by_format.setdefault(recipe.format_of(group), []).append(layer)
    found: dict[WeightFormat | None, list[str]] = {}
    for pattern, by_format in sorted(modules.items()):
        for kind, layers in by_format.items():
            text = pattern.format(layers="" if len(by_format) == 1 else _numbers(layers))
            found.setdefault(kind, []).append(text)
    return found


def _numbers(layers: list[str]) -> str:
    return rf"layers\.({'|'.join(layers)})\."


def _pattern(group: TensorGroup) -> str:
    """The pattern of a group's module, with `{layers}` where numbers of layers can stand."""
    module = group.template.rpartition(".")[0]
    if group.role is Role.MTP:
        return r"re:(.*\.)?mtp\..*"
    if group.role is Role.EMBEDDING:
        return r"re:.*(embeddings|embed_tokens)$"
    tail = module.partition(".mixer.")[2]
    if not tail:
        return rf"re:.*{re.escape(module)}$"
    expert = re.escape(tail).replace(r"\{\}", r"\d+")
    return rf"re:.*{{layers}}mixer\.{expert}$"


def _scheme(kind: WeightFormat, targets: list[str]) -> dict[str, Any]:
    return {
        "targets": targets,
        "weights": {
            "num_bits": kind.integer_bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group" if kind.group_size else "channel",
            "group_size": kind.group_size or None,
            "dynamic": False,
        },
        "input_activations": None,
        "output_activations": None,
        "format": FORMAT,
    }


def _configuration(
    config: Mapping[str, Any], model: Model, recipe: Recipe, kv_scales: bool
) -> dict[str, dict[str, Any]]:
    found = patterns(model, recipe)
    ignored = found.pop(None, [])
    # The first format, which experts have, takes what no pattern names. vLLM also looks up the
    # scheme of a `gate_proj`, which this model does not have, and wants it to be the same.
    first = next(kind for kind in recipe.formats if kind in found)
    schemes = [_scheme(kind, found[kind]) for kind in found if kind and kind != first]
    quantization = {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": scheme
            for number, scheme in enumerate([_scheme(first, ["Linear"]), *schemes])
        },
        "ignore": ignored,
        "kv_cache_scheme": None,
        "version": VERSION,
    }
    return {"config.json": {**config, "quantization_config": quantization}}


LAYOUT: Final = Layout(
    key=COMPRESSED_TENSORS,
    formats=frozenset(INTEGER_BITS),
    kv_scales=False,
    stored=lambda kind, group: kind.stored(group, COMPRESSED_TENSORS),
    encode=_encode,
    configuration=_configuration,
    readers=lambda recipe: _READERS,
)
