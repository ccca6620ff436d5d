"""A checkpoint of Nano's real widths, of any size, with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from nemotron_deploy.model import catalog
from nemotron_deploy.model.architecture import TensorGroup
from nemotron_deploy.model.config import read_model
from nemotron_deploy.model.contents import INDEX_NAME
from nemotron_deploy.quantize.job import raw_bytes
from nemotron_deploy.quantize.shard_writer import Entry, ShardWriter

EXPERTS, VOCABULARY, SHARD_BYTES = 40, 32_768, 400_000_000
CONFIG = Path(catalog.__file__).parent / "nemotron-3-nano-30b-a3b.config.json"
TORCH = {"BF16": torch.bfloat16, "F32": torch.float32}


def generate(folder: Path, repeats: int, seed: int = 0) -> Path:
    """Write a checkpoint of `repeats` Mamba and expert layers and one attention layer: 0.9 GB a
    repetition and 0.4 GB beside. Experts and vocabulary are fewer than Nano's, all widths
    are its own."""
    pattern = "ME" * repeats + "*"
    config = json.loads(CONFIG.read_text(encoding="utf-8")) | {
        "hybrid_override_pattern": pattern,
        "num_hidden_layers": len(pattern),
        "n_routed_experts": EXPERTS,
        "vocab_size": VOCABULARY,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    generator = torch.Generator().manual_seed(seed)
    weight_map = {}
    shards = list(_shards(read_model(config, "generated").tensors()))
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with ShardWriter(folder / name, shard) as writer:
            for entry in shard:
                writer.write(entry.name, raw_bytes(_values(entry, generator)))
                weight_map[entry.name] = name
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    return folder


def _shards(groups: list[TensorGroup]) -> Iterator[list[Entry]]:
    shard: list[Entry] = []
    for group in groups:
        for name in group.names():
            shard.append(Entry(name, group.dtype, group.shape))
            if sum(entry.bytes for entry in shard) > SHARD_BYTES:
                yield shard
                shard = []
    yield shard


def _values(entry: Entry, generator: torch.Generator) -> torch.Tensor:
    if entry.name.endswith("A_log"):
        return torch.rand(entry.shape, generator=generator).add_(0.1).log_().to(TORCH[entry.dtype])
    if len(entry.shape) == 1:
        return torch.ones(entry.shape, dtype=TORCH[entry.dtype])
    noise = torch.empty(entry.shape, dtype=TORCH[entry.dtype])
    return noise.normal_(0, 0.02, generator=generator)
