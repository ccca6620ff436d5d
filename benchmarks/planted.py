"""A copy of a checkpoint with planted outlier channels: the same function, hard on rounding."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from nemotron_deploy.model.checkpoint import Checkpoint

CHANNELS = 6


def plant(source: Path, target: Path) -> Path:
    """Copy `source` to `target`, with some channels of each expert layer's norm divided by a power
    of two and all that reads them multiplied by it: the same function to the bit.

    Groups with such a channel get a scale that is too coarse for all others.
    """
    folder = Path(shutil.copytree(source, target))
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for layer, letter in enumerate(Checkpoint.open(source).model.pattern):
        if letter != "E":
            continue
        prefix = f"backbone.layers.{layer}."
        norm = f"{prefix}norm.weight"
        scale = torch.ones(tensors[norm].shape)
        chosen = torch.randperm(len(scale), generator=generator)[:CHANNELS]
        scale[chosen] = 2.0 ** torch.randint(3, 6, (CHANNELS,), generator=generator)
        tensors[norm] = (tensors[norm].float() / scale).bfloat16()
        readers = [n for n in tensors if n.startswith(f"{prefix}mixer") and _reads_norm(n)]
        for name in readers:
            tensors[name] = (tensors[name].float() * scale).bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _reads_norm(name: str) -> bool:
    return name.endswith(("gate.weight", "up_proj.weight"))
