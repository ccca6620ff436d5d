"""The two configuration files of a quantized checkpoint, in ModelOpt's unified layout.

`config.json` is the source's with `quantization_config` added and nothing else touched: readers of
the hub style break on a configuration that transformers has written anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ..model.architecture import Model
from ..model.recipe import Recipe

MODELOPT_VERSION: Final = "0.47.0"
"""The ModelOpt release whose layout is written. Loaders look for `modelopt` as the producer."""


_FP8: Final[Mapping[str, Any]] = {"dynamic": False, "num_bits": 8, "type": "float"}


def ignored_modules(model: Model, recipe: Recipe) -> list[str]:
    """Modules that stay unquantized, hub names: whole layers as `backbone.layers.N.*`, single
    modules by name. Every entry matches at least one tensor, and none that is quantized."""
    kept: dict[str, list[str]] = {}
    mixed = set()
    for group in model.tensors():
        layer = _layer_of(group.template)
        if recipe.quantizes(group):
            mixed.add(layer)
        elif len(group.shape) > 1:
            kept.setdefault(layer, []).append(group.template.rpartition(".")[0])
    ignored: list[str] = []
    for layer, modules in kept.items():
        ignored += modules if layer in mixed or not layer else [f"{layer}.*"]
    return sorted(ignored)


def _layer_of(name: str) -> str:
    """`backbone.layers.3` of a tensor name, empty outside the layers."""
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[1] == "layers" else ""


def quantized_config(
    config: Mapping[str, Any], recipe: Recipe, ignored: Iterable[str], kv_scales: bool = False
) -> dict[str, Any]:
    """`config` plus `quantization_config`; `kv_scales` says that an FP8 KV cache has its scales."""
    added: dict[str, Any] = {}
    if recipe.format == "fp8":
        group = {"input_activations": _FP8, "weights": _FP8, "targets": ["Linear"]}
        added["config_groups"] = {"group_0": group}
    elif recipe.format == "nvfp4":
        weights = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
        added["config_groups"] = {"group_0": {"weights": weights, "targets": ["Linear"]}}
    else:
        added |= _group_fields(recipe)
    added |= {"ignore": list(ignored), "quant_algo": recipe.quant_algo}
    if kv_scales:
        added["kv_cache_scheme"] = _FP8
    added |= {
        "producer": {"name": "modelopt", "version": MODELOPT_VERSION},
        "quant_method": "modelopt",
    }
    return {**config, "quantization_config": added}


def hf_quant_config(
    recipe: Recipe, ignored: Iterable[str], kv_scales: bool = False
) -> dict[str, Any]:
    """The content of `hf_quant_config.json`, which TensorRT-LLM reads first."""
    quantization: dict[str, Any] = {
        "quant_algo": recipe.quant_algo,
        "kv_cache_quant_algo": "FP8" if kv_scales else None,
        **_group_fields(recipe),
        "exclude_modules": list(ignored),
    }
    producer = {"name": "modelopt", "version": MODELOPT_VERSION}
    return {"producer": producer, "quantization": quantization}


def _group_fields(recipe: Recipe) -> dict[str, Any]:
    if recipe.format != "int4":
        # Of INT8, ModelOpt knows whole rows only and writes no group size.
        return {"group_size": recipe.group_size} if recipe.group_size else {}
    # No `pre_quant_scale` tensor is ever written, and the entry says so.
    return {"group_size": recipe.group_size, "has_zero_point": False, "pre_quant_scale": False}
