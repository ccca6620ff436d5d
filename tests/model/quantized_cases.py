"""Checkpoints that are quantized already, as other tools leave them, each with the answer.

The weights are those of `tiny`, encoded by `runtime/formats.py`, which tests of its own hold to
ModelOpt and to the package `compressed-tensors`; around them is what each producer writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from nemotron_deploy.runtime import formats
from nemotron_deploy.tests.model.bent import (
    SINGLE,
    Case,
    Maker,
    Stored,
    Tensors,
    both,
    config,
    content,
    renamed,
    tensors,
)

Parts = Mapping[str, Tensor]
Encode = Callable[[Tensor], Parts]

DTYPES: Final = {
    "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "U8": torch.uint8,
    "I8": torch.int8, "I32": torch.int32, "I64": torch.int64, "F8_E4M3": torch.float8_e4m3fn,
}  # fmt: skip
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


def to_torch(stored: Stored) -> Tensor:
    """A stored tensor as torch's."""
    return torch.frombuffer(bytearray(stored.data), dtype=DTYPES[stored.dtype]).view(stored.shape)


def to_stored(tensor: Tensor) -> Stored:
    """A tensor as it is stored."""
    data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return Stored(_NAMES[tensor.dtype], tuple(tensor.shape), data)


# Which matrices.


def experts(name: str) -> bool:
    """Routed and shared experts."""
    return ".mixer.experts." in name or ".mixer.shared_experts." in name


def experts_and_mamba(name: str) -> bool:
    """Experts and Mamba's projections but those of layer 2, which feeds the attention layer: as in
    NVIDIA's FP8 checkpoint of Nemotron 3 Nano."""
    mamba = name.endswith(("in_proj.weight", "out_proj.weight"))
    return experts(name) or (mamba and ".layers.2." not in name)


def linear(name: str) -> bool:
    """Every linear layer but the head, as most tools take them."""
    return name.endswith("_proj.weight")


def mamba(name: str) -> bool:
    """Mamba's projections of all layers."""
    return name.endswith(("in_proj.weight", "out_proj.weight"))


# How they are encoded.


def fp8(weight: Tensor) -> Parts:
    """ModelOpt's FP8, with calibrated inputs."""
    stored, scale = formats.encode_fp8(weight)
    return {"weight": stored, "weight_scale": scale, "input_scale": torch.tensor(0.02)}


def int4(weight: Tensor) -> Parts:
    """ModelOpt's INT4."""
    stored, scale = formats.encode_int4(weight, 64)
    return {"weight": stored, "weight_scale": scale}


def int8_rows(weight: Tensor) -> Parts:
    """ModelOpt's INT8, which has a scale for each row."""
    stored, scale = formats.encode_int8(weight, 0)
    return {"weight": stored, "weight_scale": scale}


def nvfp4(weight: Tensor) -> Parts:
    """ModelOpt's NVFP4, weights only."""
    stored, scale, scale_2 = formats.encode_nvfp4(weight)
    return {"weight": stored, "weight_scale": scale, "weight_scale_2": scale_2}


def nvfp4_inputs(weight: Tensor) -> Parts:
    """ModelOpt's NVFP4 with NVFP4 inputs."""
    return {**nvfp4(weight), "input_scale": torch.tensor(0.02)}


def packed(weight: Tensor, bits: int = 4, group: int = 64) -> Parts:
    """Integers as llm-compressor packs them."""
    encode = formats.encode_int4_columns if bits == 4 else formats.encode_int8_columns
    stored, scale = encode(weight, group)
    shape = torch.tensor(weight.shape, dtype=torch.int64)
    return {"weight_packed": stored, "weight_scale": scale, "weight_shape": shape}


def int8_tensors(weight: Tensor) -> Parts:
    """compressed-tensors' `int-quantized`: INT8 that is not packed, scales in the model's dtype."""
    stored, scale = formats.encode_int8(weight, 0)
    return {"weight": stored, "weight_scale": scale.view(-1, 1).bfloat16()}


def fp8_vectors(weight: Tensor) -> Parts:
    """compressed-tensors' static FP8: scales of one element."""
    stored, scale = formats.encode_fp8(weight)
    return {
        "weight": stored,
        "weight_scale": scale.view(1).bfloat16(),
        "input_scale": torch.tensor([0.02], dtype=torch.bfloat16),
    }


def with_part(encode: Encode, suffix: str, value: Callable[[Tensor], Tensor]) -> Encode:
    """As `encode`, with one more tensor for each matrix."""
    return lambda weight: {**encode(weight), suffix: value(weight)}


def without_part(encode: Encode, suffix: str) -> Encode:
    """As `encode`, without one tensor of each matrix."""
    return lambda weight: {name: part for name, part in encode(weight).items() if name != suffix}


def encoded(which: Callable[[str], bool], encode: Encode) -> Maker:
    """The matrices of `which` names encoded."""

    def change(old: Tensors) -> Tensors:
        new: Tensors = {}
        for name, stored in old.items():
            if not which(name):
                new[name] = stored
                continue
            owner = name.removesuffix("weight")
            for suffix, part in encode(to_torch(stored)).items():
                new[owner + suffix] = to_stored(part)
        return new

    return tensors(change)


def kv_scales(*projections: str, spelling: str = "{}_proj.{}_scale") -> Maker:
    """Scales of an FP8 KV cache in the attention layer."""
    scale = to_stored(torch.tensor(0.01))
    new = {f"backbone.layers.3.mixer.{spelling.format(p, p)}": scale for p in projections}
    return tensors(lambda old: old | new)


# What configuration files say.

PRODUCER: Final = {"name": "modelopt", "version": "0.40.0"}
EXCLUDED: Final = (
    "lm_head", "backbone.embeddings", "backbone.layers.1.mixer.gate", "backbone.layers.2*",
    "backbone.layers.3*", "backbone.layers.4.mixer.gate", "backbone.layers.6.mixer.gate",
)  # fmt: skip
EXPERTS_ONLY: Final = (
    "lm_head", "backbone.embeddings", "backbone.layers.0*", "backbone.layers.2*",
    "backbone.layers.3*", "backbone.layers.5*", "*.mixer.gate",
)  # fmt: skip


def hf_quant_config(algorithm: str, excluded: tuple[str, ...] = EXPERTS_ONLY, **more: Any) -> Maker:
    """ModelOpt's own file."""
    quantization = {"quant_algo": algorithm, "exclude_modules": list(excluded), **more}
    document = {"producer": PRODUCER, "quantization": quantization}
    return content("hf_quant_config.json", json.dumps(document).encode())


def modelopt(algorithm: str, excluded: tuple[str, ...] = EXPERTS_ONLY, **more: Any) -> Maker:
    """ModelOpt's entry of `config.json`."""
    return config(
        quantization_config={
            "quant_method": "modelopt", "quant_algo": algorithm, "ignore": list(excluded),
            "producer": PRODUCER, **more,
        }
    )  # fmt: skip


def llm_compressor(form: str = "pack-quantized", inputs: bool = False, **weights: Any) -> Maker:
    """The entry that llm-compressor writes."""
    scheme = {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 64,
        "dynamic": False, "actorder": None, "observer": "minmax", "observer_kwargs": {},
        "block_structure": None, **weights,
    }  # fmt: skip
    kind = scheme["type"]
    activations = {"num_bits": 8, "type": kind, "symmetric": True, "dynamic": kind == "int"}
    group = {
        "targets": ["Linear"],
        "weights": scheme,
        "input_activations": activations if inputs else None,
        "output_activations": None,
    }
    return config(
        quantization_config={
            "quant_method": "compressed-tensors", "format": form, "version": "0.12.2",
            "quantization_status": "compressed", "global_compression_ratio": None,
            "config_groups": {"group_0": group}, "kv_cache_scheme": None,
            "ignore": ["lm_head", "re:.*mixer.gate$", "re:.*(in|out|q|k|v|o)_proj$"],
        }
    )  # fmt: skip


NVIDIA: Final = both(encoded(experts_and_mamba, fp8), kv_scales("k", "v"))
"""The tensors of an FP8 checkpoint after NVIDIA's recipe of Nemotron 3 Nano."""

FP8_FILES: Final = both(
    modelopt("FP8", EXCLUDED), hf_quant_config("FP8", EXCLUDED, kv_cache_quant_algo="FP8")
)


def _damaged(path: Path) -> None:
    """What ModelOpt 0.47 makes of its ignore lists for this architecture."""
    names = tuple(f"{name}.\0backbone.pt_name_sentinel" for name in EXCLUDED)
    both(modelopt("FP8", names), hf_quant_config("FP8", names))(path)


MIXED_FILES: Final = both(
    hf_quant_config("MIXED_PRECISION", (), quantized_layers={
        **{f"backbone.layers.{layer}.mixer.{side}_proj": {"quant_algo": "FP8"}
           for layer in (0, 2, 5) for side in ("in", "out")},
        **{f"backbone.layers.{layer}.mixer.{owner}.{side}_proj":
           {"quant_algo": "W4A16_NVFP4", "group_size": 16}
           for layer in (1, 4, 6) for side in ("up", "down")
           for owner in ("shared_experts", *(f"experts.{number}" for number in range(12)))},
    }),
    modelopt("MIXED_PRECISION", ()),
)  # fmt: skip

CARD: Final = b"---\nbase_model: nvidia/some-model-BF16\n---\n"

TAKEN_OVER: Final = (
    Case("FP8 by ModelOpt after NVIDIA's recipe of Nano", both(NVIDIA, FP8_FILES), "taken over",
         "Mamba FP8 (BF16 in layers that feed attention)"),
    Case("The same, said by `config.json` alone", both(NVIDIA, modelopt("FP8", EXCLUDED)),
         "taken over", "FP8 by ModelOpt 0.40.0"),
    Case("The same, said by `hf_quant_config.json` alone",
         both(NVIDIA, hf_quant_config("FP8", EXCLUDED)), "taken over", "FP8 by ModelOpt 0.40.0"),
    Case("The same, said by nothing", NVIDIA, "taken over",
         "no configuration file says that the weights are quantized; the tensors decide"),
    Case("The same with the ignore list that ModelOpt 0.47 damages", both(NVIDIA, _damaged),
         "taken over", "the configuration is wrong about single modules"),
    Case("The same with the configuration of another checkpoint",
         both(NVIDIA, modelopt("W4A16_NVFP4")), "taken over",
         "the configuration says NVFP4, but the tensors are FP8; the tensors decide"),
    Case("The same without scales of its FP8 KV cache (ModelOpt's `fp8_cast`)",
         both(encoded(experts_and_mamba, fp8), FP8_FILES), "taken over",
         "an FP8 KV cache is declared and no scales of it are stored: engines take every scale as"
         " 1"),
    Case("The same with scales of the KV cache as llm-compressor spells them",
         both(encoded(experts_and_mamba, fp8), kv_scales("k", "v", spelling="{}_scale"), FP8_FILES),
         "taken over", "2 scales of the KV cache are read as `k_proj.k_scale`"),
    Case("The same with scales of the KV cache as vLLM spells them", both(
        encoded(experts_and_mamba, fp8), kv_scales("k", "v", spelling="attn.{}_scale"), FP8_FILES),
         "taken over", "2 scales of the KV cache are read as `k_proj.k_scale`"),
    Case("The same with scales of the KV cache as scales of outputs", both(
        encoded(experts_and_mamba, fp8), FP8_FILES,
        kv_scales("k", "v", spelling="{}_proj.output_scale")),
         "taken over", "2 scales of the KV cache are read as `k_proj.k_scale`"),
    Case("The same under the prefix `model.`",
         both(NVIDIA, FP8_FILES, renamed(lambda n: n.replace("backbone.", "model."))),
         "taken over", "names beginning with 'model.'"),
    Case("INT4 in ModelOpt's layout",
         both(encoded(experts, int4), modelopt("W4A16_AWQ", group_size=64)),
         "taken over", "INT4 by ModelOpt 0.40.0: routed experts and shared experts INT4, group 64"),
    Case("INT8 in ModelOpt's layout", both(encoded(experts, int8_rows), modelopt("W8A16")),
         "taken over", "routed experts and shared experts INT8, one scale a row"),
    Case("NVFP4 by ModelOpt, weights only", both(encoded(experts, nvfp4), modelopt("W4A16_NVFP4")),
         "taken over", "NVFP4 by ModelOpt 0.40.0"),
    Case("NVFP4 by ModelOpt, inputs too", both(encoded(experts, nvfp4_inputs), modelopt("NVFP4")),
         "taken over", "NVFP4 (W4A4) by ModelOpt 0.40.0"),
    Case("NVFP4 said to have NVFP4 inputs, whose scales are not stored",
         both(encoded(experts, nvfp4), modelopt("NVFP4")), "taken over",
         "the configuration says NVFP4 (W4A4), but the tensors are NVFP4; the tensors decide"),
    Case("NVFP4 experts and FP8 Mamba by ModelOpt",
         both(encoded(experts, nvfp4), encoded(mamba, fp8), MIXED_FILES),
         "taken over", "routed experts and shared experts NVFP4, Mamba FP8"),
    Case("INT4 by llm-compressor (W4A16)", both(encoded(experts, packed), llm_compressor()),
         "taken over", "INT4 by compressed-tensors 0.12.2: routed experts and shared experts INT4"),
    Case("The same in groups of 32",
         both(encoded(experts, partial(packed, group=32)), llm_compressor(group_size=32)),
         "taken over", "routed experts and shared experts INT4, group 32"),
    Case("INT8 by llm-compressor (W8A16)",
         both(encoded(experts, partial(packed, bits=8, group=0)),
              llm_compressor(num_bits=8, strategy="channel", group_size=None)),
         "taken over", "INT8 by compressed-tensors 0.12.2"),
    Case("INT8 in the layout of compressed-tensors, not packed",
         both(encoded(experts, int8_tensors),
              llm_compressor("int-quantized", num_bits=8, strategy="channel")),
         "taken over", "INT8 by compressed-tensors 0.12.2"),
    Case("FP8 with static scales in the layout of compressed-tensors",
         both(encoded(experts, fp8_vectors),
              llm_compressor("float-quantized", True, num_bits=8, type="float",
                             strategy="tensor")),
         "taken over", "FP8 by compressed-tensors 0.12.2"),
)  # fmt: skip


def _one_expert_left(old: Tensors) -> Tensors:
    """One expert of a layer is not quantized."""
    owner = "backbone.layers.4.mixer.experts.7.up_proj."
    plain = {name: stored for name, stored in old.items() if not name.startswith(owner)}
    return plain | {f"{owner}weight": Stored("BF16", (192, 128), bytes(192 * 128 * 2))}


def _rows(weight: Tensor) -> Tensor:
    return torch.ones(weight.shape[0], 1)


def _blocks(weight: Tensor) -> Tensor:
    return torch.ones(-(-weight.shape[0] // 128), -(-weight.shape[1] // 128))


REFUSED: Final = (
    Case("INT4 with zero points", both(llm_compressor(symmetric=False), encoded(
        experts, with_part(packed, "weight_zero_point",
                           lambda w: torch.zeros(w.shape[0] // 8, 1, dtype=torch.int32)))),
         "refused", "is quantized as asymmetric integers"),
    Case("INT4 in the order of activations", both(llm_compressor(actorder="group"), encoded(
        experts, with_part(packed, "weight_g_idx",
                           lambda w: torch.zeros(w.shape[1], dtype=torch.int32)))),
         "refused", "act-order"),
    Case("INT4 in groups that have no kernels",
         both(encoded(experts, partial(packed, group=16)), llm_compressor(group_size=16)),
         "refused", "known are groups of 32, 64, 128"),
    Case("INT8 with INT8 inputs (W8A8)",
         both(encoded(experts, int8_tensors), llm_compressor("int-quantized", inputs=True,
                                                             num_bits=8)),
         "refused", "INT8 weights with quantized inputs (W8A8)"),
    Case("INT4 of ModelOpt with AWQ's scales of inputs", both(modelopt("W4A16_AWQ"), encoded(
        experts, with_part(int4, "pre_quant_scale", lambda w: torch.ones(w.shape[1])))),
         "refused", "AWQ with scales of inputs"),
    Case("2:4 sparse weights", both(llm_compressor("sparse-24-bitmask"), encoded(
        experts, with_part(int8_tensors, "bitmask",
                           lambda w: torch.zeros(w.shape[0], w.shape[1] // 8, dtype=torch.uint8)))),
         "refused", "2:4 sparse weights"),
    Case("FP8 without calibration", both(encoded(experts, without_part(fp8, "input_scale")),
                                         modelopt("FP8")),
         "refused", "FP8 without scales of its inputs"),
    Case("FP8 with a scale for each row",
         both(encoded(experts, with_part(fp8, "weight_scale", _rows)), modelopt("FP8")),
         "refused", "FP8 with a scale for each row"),
    Case("FP8 in blocks by llm-compressor",
         both(encoded(experts, with_part(fp8, "weight_scale", _blocks)),
              llm_compressor("float-quantized", type="float", num_bits=8, strategy="block")),
         "refused", "is quantized as blocks of FP8"),
    Case("FP8 that was only cast",
         encoded(experts, lambda w: {"weight": w.to(torch.float8_e4m3fn)}),
         "refused", "F8_E4M3 without scales"),
    Case("NVFP4 by llm-compressor", both(llm_compressor("nvfp4-pack-quantized"), encoded(
        experts, lambda w: {"weight_packed": nvfp4(w)["weight"], "weight_global_scale": _rows(w),
                            "weight_scale": nvfp4(w)["weight_scale"]})),
         "refused", "NVFP4 in the layout of compressed-tensors"),
    Case("MXFP4", encoded(experts, lambda w: {
        "weight": nvfp4(w)["weight"],
        "weight_scale": torch.ones(w.shape[0], w.shape[1] // 32, dtype=torch.uint8)}),
         "refused", "is quantized as MXFP4"),
    Case("FP8 with scales for half of the KV cache",
         both(encoded(experts, fp8), kv_scales("k"), modelopt("FP8")),
         "refused", "FP8 with scales of some layers' KV cache"),
    Case("FP8 with an expert left out",
         both(encoded(experts, fp8), tensors(_one_expert_left), modelopt("FP8")),
         "refused", "experts of one layer in several formats"),
    Case("GGUF with a model card that names the original",
         both(content("README.md", CARD), content("m-Q4_K_M.gguf", b"GGUF"),
              lambda path: (path / SINGLE).unlink()),
         "refused", "use the unquantized original, nvidia/some-model-BF16"),
)  # fmt: skip

LEFT_OVER: Final = (
    Case("`hf_quant_config.json` left over in an unquantized model", hf_quant_config("FP8"),
         "converted", "`hf_quant_config.json` is ignored: no tensor is quantized"),
)  # fmt: skip
