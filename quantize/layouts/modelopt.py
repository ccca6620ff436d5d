"""NVIDIA ModelOpt's unified checkpoint: what TensorRT-LLM reads. FP8, INT8, INT4 and NVFP4.

Of INT8, ModelOpt itself writes whole rows (one scale each); groups are this project's, for its
plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ...model.architecture import Model
from ...model.recipe import EXPERT_ROLES, Recipe
from ...model.weight_format import INTEGER_BITS, WeightFormat
from .. import hub_config
from .base import Layout, Reader

if TYPE_CHECKING:
    from torch import Tensor

    from ...runtime.formats import Deviation

_READERS: Final[Mapping[str, tuple[Reader, ...]]] = {
    "bf16": (Reader("TensorRT-LLM", "trtllm-serve {path}"), Reader("vLLM", "vllm serve {path}")),
    "fp8": (Reader("TensorRT-LLM", "trtllm-serve {path}"), Reader("vLLM", "vllm serve {path}")),
    "int8": (Reader("TensorRT-LLM with the plugin of a nemo-deploy bundle"),),
    "int4": (Reader("TensorRT-LLM with the plugin of a nemo-deploy bundle"),),
    "nvfp4": (Reader("TensorRT-LLM from 1.3 on", "trtllm-serve {path}"),),
}


def _encode(
    weight: Tensor, kind: WeightFormat, deviation: Deviation | None = None
) -> dict[str, Tensor]:
    from ...runtime import formats

    if kind.key == "fp8":
        stored, scale = formats.encode_fp8(weight, deviation)
        return {"weight": stored, "weight_scale": scale}
    if kind.key == "nvfp4":
        stored, scale, scale_2 = formats.encode_nvfp4(weight, deviation)
        return {"weight": stored, "weight_scale": scale, "weight_scale_2": scale_2}
    encode = formats.encode_int8 if kind.key == "int8" else formats.encode_int4
    stored, scale = encode(weight, kind.group_size, deviation)
    return {"weight": stored, "weight_scale": scale}


def _configuration(
    config: Mapping[str, Any], model: Model, recipe: Recipe, kv_scales: bool
) -> dict[str, dict[str, Any]]:
    modules = hub_config.modules(model, recipe)
    return {
        "config.json": hub_config.quantized_config(config, modules, kv_scales),
        "hf_quant_config.json": hub_config.hf_quant_config(modules, kv_scales),
    }


def _readers(recipe: Recipe) -> tuple[Reader, ...]:
    """The plugin runs experts alone, so nothing reads other roles in its formats here."""
    beyond_experts = any(choice.roles - EXPERT_ROLES for choice in recipe.choices if choice.format)
    if recipe.key in INTEGER_BITS and beyond_experts:
        return ()
    return _READERS[recipe.key]


LAYOUT: Final = Layout(
    key="modelopt",
    formats=frozenset({"bf16", "fp8", "int8", "int4", "nvfp4"}),
    kv_scales=True,
    stored=WeightFormat.stored,
    encode=_encode,
    configuration=_configuration,
    readers=_readers,
)
