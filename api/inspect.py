"""`inspect`: what a model is and what it weighs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..model.architecture import ARCHITECTURE, Role
from ..sources.checkpoint_source import resolve


def inspect(name: str) -> dict[str, Any]:
    """Facts of the checkpoint, configuration or known model `name`, as `inspect --json` has them.

    Sizes of a checkpoint that is here are its own; without one they are those of an unquantized
    checkpoint and follow from the configuration (`weights` says which).
    """
    source = resolve(name)
    model, checkpoint = source.model, source.checkpoint
    roles: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    for group in model.tensors():
        roles[group.role.value] += group.parameters
        dtypes[group.dtype] += group.bytes
    tensors = sum(group.count for group in model.tensors())
    if checkpoint is not None:
        dtypes = Counter()
        for info in checkpoint.tensors.values():
            dtypes[info.dtype] += info.bytes
        tensors = len(checkpoint.tensors)
    embedding = roles[Role.EMBEDDING]
    return {
        "model": source.slug,
        "source": source.place,
        "weights": checkpoint is not None,
        "architecture": ARCHITECTURE,
        "quantization": (model.config.get("quantization_config") or {}).get("quant_algo"),
        "parameters_total": model.parameters_total,
        "parameters_active": model.parameters_active,
        "parameters_active_with_embedding": model.parameters_active + embedding,
        "parameters_by_role": dict(roles),
        "pattern": model.pattern,
        "layers": {
            "mamba": model.layer_count("M"),
            "attention": model.layer_count("*"),
            "moe": model.layer_count("E"),
            "mlp": model.layer_count("-"),
        },
        "experts": model.moe
        and {
            "routed": model.moe.num_experts,
            "per_token": model.moe.top_k,
            "width": model.moe.width,
            "shared_width": model.moe.shared_width,
        },
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        "max_positions": model.max_positions,
        "bytes": sum(dtypes.values()),
        "dtypes": dict(dtypes),
        "tensors": tensors,
        "kv_bytes_per_token": {
            "bf16": model.kv_bytes_per_token("BF16"),
            "fp8": model.kv_bytes_per_token("F8_E4M3"),
        },
        "state_bytes_per_sequence": {
            "fp32": model.state_bytes_per_sequence("F32"),
            "bf16": model.state_bytes_per_sequence("BF16"),
        },
    }
