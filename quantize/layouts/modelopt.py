"""NVIDIA ModelOpt's unified checkpoint: what TensorRT-LLM reads. FP8, INT8, INT4 and NVFP4.

Of INT8, ModelOpt itself writes whole rows (one scale each); groups are this project's, for its
plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ...model.architecture import Model
from ...model.recipe import EXPERT_ROLES, Recipe
from ...model.weight_format import INTEGER_BITS, MODELOPT, WeightFormat
from .. import hub_config
from .base import PARSERS, Layout, Reader

if TYPE_CHECKING:
    from torch import Tensor

    from ...runtime.formats import Deviation

_TRTLLM: Final = Reader(
    "TensorRT-LLM", "trtllm-serve {path}", "TensorRT-LLM's documentation of trtllm-serve"
)
_VLLM: Final = Reader("vLLM", f"vllm serve {{path}} {PARSERS}", "vLLM's recipe of Nemotron 3 Nano")
_PLUGIN: Final = Reader("TensorRT-LLM with the plugin of a nemo-deploy bundle")


def _sglang(quantization: str) -> Reader:
    return Reader(
        "SGLang",
        f"python -m sglang.launch_server --model-path {{path}}{quantization} --mamba-ssm-dtype "
        "float32 --reasoning-parser nemotron_3 --tool-call-parser qwen3_coder",
        "SGLang's cookbook of Nemotron 3 Nano; flags read in 0.5.23",
    )


_READERS: Final[Mapping[str, tuple[Reader, ...]]] = {
    "bf16": (_TRTLLM, _VLLM, _sglang("")),
    "fp8": (
        _TRTLLM,
        replace(_VLLM, engine="vLLM (from 0.27 on below SM89, too)"),
        _sglang(" --quantization modelopt_fp8"),
    ),
    "int8": (_PLUGIN,),
    "int4": (_PLUGIN,),
    "nvfp4": (
        replace(_TRTLLM, engine="TensorRT-LLM from 1.3 on (SM89 to SM99)"),
        replace(_VLLM, engine="vLLM from 0.24 on"),
        _sglang(" --quantization modelopt_fp4"),
    ),
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
    key=MODELOPT,
    formats=frozenset({"bf16", "fp8", "int8", "int4", "nvfp4"}),
    kv_scales=True,
    stored=lambda kind, group: kind.stored(group, MODELOPT),
    encode=_encode,
    configuration=_configuration,
    readers=_readers,
)
