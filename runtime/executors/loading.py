"""Open a bundle's quantized checkpoint as a transformers model, decoded to BF16."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import StartError

Tensors = dict[str, Any]
Change = Callable[[Tensors], Tensors]


def load_model(
    checkpoint: Path, dtype: str = "bfloat16", change: Change | None = None
) -> tuple[Any, Any]:
    """(`NemotronHForCausalLM` in evaluation mode, its tokenizer) from a checkpoint directory.

    Quantized or not, tensors are read from safetensors under their hub names, decoded by the
    module that encoded them, and handed to transformers, which
    renames them and fuses the experts; no code of the checkpoint is run. FP8 checkpoints are
    decoded to what their weights stand for; rounding of activations to FP8 is not simulated.
    `dtype` is what weights are decoded to and computed in. `change` is given the stored tensors
    before they are decoded.

    Raises `StartError` naming the file or tensor.
    """
    import torch
    from transformers import AutoTokenizer, GenerationConfig, NemotronHForCausalLM
    from transformers.utils import logging

    from ..formats import decode_checkpoint

    # Its monitor is a thread that would live on when the server ends its stub.
    quiet: Any = logging
    quiet.disable_progress_bar()
    quiet.set_verbosity_error()  # that Mamba's CUDA kernels are missing is no news on a CPU
    load: Any = NemotronHForCausalLM.from_pretrained
    config, tensors = _config(checkpoint), _tensors(checkpoint)
    if change is not None:
        tensors = change(tensors)
    model, report = load(
        None,
        config=config,
        state_dict=decode_checkpoint(tensors, getattr(torch, dtype)),
        dtype=dtype,
        output_loading_info=True,
    )
    wrong = {key: sorted(map(str, names)) for key, names in report.items() if names}
    if wrong:
        kind, names = next(iter(wrong.items()))
        raise StartError(f"{checkpoint}: {kind.replace('_', ' ')}: {', '.join(names[:3])}")
    if (checkpoint / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    return model.eval(), tokenizer


def _config(checkpoint: Path) -> Any:
    from transformers import NemotronHConfig

    path = checkpoint / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"{path}: cannot be read: {error}") from error
    # transformers would look for ModelOpt on the first and for remote code on the second.
    for name in ("quantization_config", "auto_map"):
        fields.pop(name, None)
    return NemotronHConfig(**fields)


def _shards(checkpoint: Path) -> list[Path]:
    """The files an index names, or the single file."""
    index = checkpoint / "model.safetensors.index.json"
    if not index.is_file():
        return [checkpoint / "model.safetensors"]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise StartError(f"{index}: cannot be read: {error}") from error
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise StartError(f"{index}: names {outside[0]!r}, which is no file of its directory")
    return [checkpoint / name for name in sorted(names)]


def _tensors(checkpoint: Path) -> dict[str, Any]:
    """All tensors of all shards, by hub name."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Any] = {}
    for shard in _shards(checkpoint):
        try:
            with safe_open(shard, framework="pt") as file:
                tensors.update((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise StartError(f"{shard}: cannot be read: {error}") from error
    return tensors
