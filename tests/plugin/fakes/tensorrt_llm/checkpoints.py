"""A FAKE of how TensorRT-LLM reads a checkpoint directory."""

import json
from types import SimpleNamespace

from safetensors import safe_open
from transformers import NemotronHConfig


def model_config(folder, dtype, rank=0, ranks=1):
    """What upstream's ModelConfig holds of a checkpoint, as far as it is read here."""
    fields = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in fields
    fields.pop("auto_map", None)
    mapping = SimpleNamespace(
        tp_size=ranks, tp_rank=rank, moe_ep_size=ranks, moe_ep_rank=rank, enable_attention_dp=False
    )
    return SimpleNamespace(
        pretrained_config=SimpleNamespace(**{**fields, "torch_dtype": dtype}),
        hf_config=NemotronHConfig(**fields, attn_implementation="eager"),
        mapping=mapping,
        moe_backend="CUTLASS",
    )


def weights(folder):
    found = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found
