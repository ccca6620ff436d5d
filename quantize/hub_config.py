"""The two configuration files of a quantized checkpoint, in ModelOpt's unified layout.

`config.json` is the source's with `quantization_config` added and nothing else touched: readers of
the hub style break on a configuration that transformers has written anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..model.architecture import Model
from ..model.recipe import Recipe
from ..model.weight_format import WeightFormat

MODELOPT_VERSION: Final = "0.47.0"
"""The ModelOpt release whose layout is written. Loaders look for `modelopt` as the producer."""


_FP8: Final[Mapping[str, Any]] = {"dynamic": False, "num_bits": 8, "type": "float"}

_NVFP4: Final[Mapping[str, Any]] = {
    "dynamic": False, "num_bits": 4, "type": "float", "group_size": 16,
}  # fmt: skip

_GROUPS: Final[Mapping[str, dict[str, Any]]] = {
    "fp8": {"input_activations": _FP8, "weights": _FP8},
    "nvfp4": {"weights": _NVFP4},
}
"""How ModelOpt describes the formats that it lists in `config_groups`."""


def _group(kind: WeightFormat) -> dict[str, Any]:
    """How ModelOpt describes a format of `_GROUPS`."""
    inputs = {"input_activations": _NVFP4} if kind.inputs else {}
    return {**inputs, **_GROUPS[kind.key]}


@dataclass(frozen=True, slots=True)
class Modules:
    """Which modules have which format, by hub names. `formats` are those that the model has,
    `quantized` each quantized module's (experts one by one), `ignored` the others': whole layers as
    `backbone.layers.N.*`, single modules by name. Each entry matches a tensor, and none of
    `ignored` matches one that is quantized."""

    formats: tuple[WeightFormat, ...]
    quantized: Mapping[str, WeightFormat]
    ignored: tuple[str, ...]


def modules(model: Model, recipe: Recipe) -> Modules:
    """The modules of `model` as `recipe` has them."""
    quantized: dict[str, WeightFormat] = {}
    kept: dict[str, list[str]] = {}
    mixed = set()
    for group in model.tensors():
        layer = _layer_of(group.template)
        if kind := recipe.format_of(group):
            mixed.add(layer)
            quantized |= {name.rpartition(".")[0]: kind for name in group.names()}
        elif len(group.shape) > 1:
            kept.setdefault(layer, []).append(group.template.rpartition(".")[0])
    ignored: list[str] = []
    for layer, names in kept.items():
        ignored += names if layer in mixed or not layer else [f"{layer}.*"]
    used = set(quantized.values())
    formats = tuple(kind for kind in recipe.formats if kind in used)
    return Modules(formats, quantized, tuple(sorted(ignored)))


def _layer_of(name: str) -> str:
    """`backbone.layers.3` of a tensor name, empty outside the layers."""
    parts = name.split(".")
    return ".".join(parts[:3]) if parts[1] == "layers" else ""


def quantized_config(
    config: Mapping[str, Any], modules: Modules, kv_scales: bool = False
) -> dict[str, Any]:
    """`config` plus `quantization_config`; `kv_scales` says that an FP8 KV cache has its scales."""
    added: dict[str, Any] = {}
    if len(modules.formats) == 1:
        (kind,) = modules.formats
        if kind.key in _GROUPS:
            added["config_groups"] = {"group_0": {**_group(kind), "targets": ["Linear"]}}
        else:
            added |= _group_fields(kind)
    elif all(kind.key in _GROUPS for kind in modules.formats):
        added["config_groups"] = {
            f"group_{number}": {
                **_group(kind),
                "targets": sorted(
                    name for name, other in modules.quantized.items() if other == kind
                ),
            }
            for number, kind in enumerate(modules.formats)
        }
    added |= {"ignore": list(modules.ignored), **_algorithm(modules)}
    if kv_scales:
        added["kv_cache_scheme"] = _FP8
    added |= {
        "producer": {"name": "modelopt", "version": MODELOPT_VERSION},
        "quant_method": "modelopt",
    }
    return {**config, "quantization_config": added}


def hf_quant_config(modules: Modules, kv_scales: bool = False) -> dict[str, Any]:
    """The content of `hf_quant_config.json`, which TensorRT-LLM reads first."""
    fields = _group_fields(modules.formats[0]) if len(modules.formats) == 1 else {}
    quantization: dict[str, Any] = {
        **_algorithm(modules),
        "kv_cache_quant_algo": "FP8" if kv_scales else None,
        **fields,
        "exclude_modules": list(modules.ignored),
    }
    producer = {"name": "modelopt", "version": MODELOPT_VERSION}
    return {"producer": producer, "quantization": quantization}


def _algorithm(modules: Modules) -> dict[str, Any]:
    """ModelOpt's name of the format; with several of them, that of each module."""
    if len(modules.formats) == 1:
        return {"quant_algo": modules.formats[0].quant_algo}
    layers = {
        name: {"quant_algo": kind.quant_algo, **_group_fields(kind)}
        for name, kind in modules.quantized.items()
    }
    return {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}


def _group_fields(kind: WeightFormat) -> dict[str, Any]:
    if kind.key == "int4":
        # No `pre_quant_scale` tensor is ever written, and the entry says so.
        return {"group_size": kind.group_size, "has_zero_point": False, "pre_quant_scale": False}
    # Of INT8, ModelOpt knows whole rows only and writes no group size.
    return {"group_size": kind.group_size} if kind.group_size else {}
