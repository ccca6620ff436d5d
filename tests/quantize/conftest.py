"""ModelOpt's own export of `tiny`, made once: what ours is compared with."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nemotron_deploy.model.catalog import TINY, text

SENTINEL = re.compile(r"\.\x00\w+\.pt_name_sentinel")
"""ModelOpt 0.47 leaves this mark in every ignore-list entry of this architecture: its own reverse
rename rule `model.` -> `backbone.` matches inside the mark, which is then not found again."""


@dataclass
class Exported:
    """A checkpoint that ModelOpt wrote, its ignore list repaired."""

    tensors: dict[str, torch.Tensor]
    ignored: list[str]
    hf_quant_config: dict[str, Any]
    config: dict[str, Any]


def _weights_only(cfg: dict[str, Any], group_size: int) -> dict[str, Any]:
    """A ModelOpt configuration narrowed to the modules that our weight-only recipes quantize."""
    cfg = copy.deepcopy(cfg)
    for row in cfg["quant_cfg"]:
        if row["quantizer_name"] == "*weight_quantizer" and group_size:
            row["cfg"]["block_sizes"][-1] = group_size
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "mixer.in_proj", "mixer.out_proj"):
        cfg["quant_cfg"].append({"quantizer_name": f"*{name}*", "enable": False})
    return cfg


def _configuration(quant: str) -> dict[str, Any]:
    """What ModelOpt is to do for `fp8`, `fp8-aggressive`, `int8-row`, `int4` (or `int4-32`) and
    `nvfp4`."""
    import modelopt.torch.quantization as mtq

    kind, _, rest = quant.partition("-")
    if kind == "int4":
        return _weights_only(mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG, int(rest or 64))
    if kind == "int8":
        return _weights_only(mtq.INT8_WEIGHT_ONLY_CFG, 0)
    if kind == "nvfp4":
        return _weights_only(mtq.W4A16_NVFP4_CFG, 0)
    presets = {
        "": mtq.MAMBA_MOE_FP8_CONSERVATIVE_CFG,
        "aggressive": mtq.MAMBA_MOE_FP8_AGGRESSIVE_CFG,
    }
    return dict(
        mtq.update_quant_cfg_with_kv_cache_quant(presets[rest], mtq.FP8_KV_CFG["quant_cfg"])
    )


@pytest.fixture(scope="session")
def modelopt_export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Gives ModelOpt's export for a format (see `_configuration`)."""
    import modelopt.torch.export.unified_export_hf as unified
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoTokenizer, NemotronHForCausalLM

    real = unified.get_experts_list

    def tolerant(module: Any, model_type: str) -> Any:
        # 0.47 takes the fused experts for a list and crashes (Model-Optimizer pull request 2017).
        try:
            len(module.experts)
        except TypeError:
            return []
        return real(module, model_type)

    def export(quant: str) -> Exported:
        model = NemotronHForCausalLM.from_pretrained(TINY, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(TINY)

        def forward(loaded: Any) -> None:
            for sample in text.documents(0, 64):
                with torch.inference_mode():
                    loaded(torch.tensor([tokenizer(sample).input_ids[:512]]), use_cache=False)

        mtq.quantize(model, _configuration(quant), forward if quant.startswith("fp8") else None)
        out: Path = tmp_path_factory.mktemp(f"modelopt-{quant}")
        unified.get_experts_list = tolerant
        try:
            export_hf_checkpoint(model, export_dir=out)
        finally:
            unified.get_experts_list = real
        quantization = json.loads((out / "hf_quant_config.json").read_text())
        ignored = quantization["quantization"].pop("exclude_modules")
        return Exported(
            load_file(out / "model.safetensors"),
            [SENTINEL.sub("", entry) for entry in ignored],
            quantization,
            json.loads((out / "config.json").read_text())["quantization_config"],
        )

    made: dict[str, Exported] = {}

    def cached(quant: str) -> Exported:
        if quant not in made:
            made[quant] = export(quant)
        return made[quant]

    return cached
