"""Quantize a checkpoint shard by shard, with one tensor in memory at a time.

Every output shard holds what became of one source shard, under the same file name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ..checkpoint import INDEX_NAME, Checkpoint, TensorInfo
from ..errors import BadInputError, RefusedError
from ..recipe import Recipe
from ..spec import TensorGroup
from . import formats
from .hub_config import hf_quant_config, ignored_modules, quantized_config
from .shard_writer import Entry, ShardWriter

SOURCE_DTYPES: Final = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

COMPANIONS: Final = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
"""Files that are carried over. Code (`*.py`) never is."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a quantization wrote. Bytes are tensor bytes; `tensors` counts quantized weights."""

    recipe: str
    tensors: int
    source_bytes: int
    written_bytes: int


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    out: Path,
    *,
    activation_amax: Mapping[str, float] | None = None,
    fold: Callable[[str, Tensor], Tensor] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Summary:
    """Write `checkpoint` in the format of `recipe` into the existing, empty directory `out`.

    `activation_amax` maps each quantized tensor's name to the largest input magnitude seen in
    calibration; it is needed where the recipe has activation scales. `fold` gives what a tensor of
    that name is to be before it is encoded or copied (see `smooth.Folding`). `on_bytes` is told how
    many source bytes are done. Raises `BadInputError` naming file and tensor, `RefusedError` for
    widths that do not divide or activation scales that are missing.
    """
    if checkpoint.is_quantized:
        raise BadInputError(f"{checkpoint.path}: is quantized already; start from the BF16 model")
    checkpoint.require_complete()
    groups = {name: group for group in checkpoint.model.tensors() for name in group.names()}
    scales = _input_scales(recipe, groups, activation_amax)
    weight_map: dict[str, str] = {}
    quantized = done = written = 0
    for shard in checkpoint.shards:
        infos = [info for info in checkpoint.tensors.values() if info.shard == shard]
        entries = {info.name: _entries(info, groups[info.name], recipe) for info in infos}
        flat = [entry for row in entries.values() for entry in row]
        with ShardWriter(out / shard.name, flat) as writer:
            for info in infos:
                data = checkpoint.read(info.name)
                if recipe.quantizes(groups[info.name]):
                    _write_encoded(writer, info, _folded(info, data, fold), recipe, scales)
                    quantized += 1
                elif fold:
                    writer.write(info.name, _copied(info, data, fold))
                else:
                    writer.write(info.name, data)
                done += info.bytes
                if on_bytes:
                    on_bytes(done)
        weight_map |= {entry.name: shard.name for entry in flat}
        written += sum(entry.bytes for entry in flat)
    _write_configuration(checkpoint, recipe, out, weight_map, written)
    return Summary(recipe.key, quantized, checkpoint.bytes, written)


def _entries(info: TensorInfo, group: TensorGroup, recipe: Recipe) -> list[Entry]:
    """What the tensor `info` becomes in the output shard."""
    if not recipe.quantizes(group):
        return [Entry(info.name, info.dtype, info.shape)]
    if info.dtype not in SOURCE_DTYPES:
        raise BadInputError(
            f"{info.shard}: tensor {info.name} has dtype {info.dtype}; it can be quantized from "
            f"{', '.join(SOURCE_DTYPES)} only"
        )
    prefix = info.name.rpartition(".")[0]
    return [Entry(f"{prefix}.{s.suffix}", s.dtype, s.shape) for s in recipe.stored(group)]


def _input_scales(
    recipe: Recipe, groups: Mapping[str, TensorGroup], amax: Mapping[str, float] | None
) -> dict[str, Tensor]:
    """Activation scale of each quantized tensor; all of them or none."""
    if not recipe.activation_scales:
        return {}
    wanted = [name for name, group in groups.items() if recipe.quantizes(group)]
    missing = [name for name in wanted if not (amax or {}).get(name, 0.0) > 0.0]
    if amax is None or missing:
        raise RefusedError(
            f"{len(missing)} of {len(wanted)} activation scales are missing, first that of "
            f"{missing[0]} (rule: fp8-activations): a checkpoint without them would load and "
            "answer nonsense. Calibrate with more text, or use --quant int4, which needs none."
        )
    return {name: formats.fp8_scale(torch.tensor(amax[name])) for name in wanted}


def _folded(
    info: TensorInfo, data: bytearray, fold: Callable[[str, Tensor], Tensor] | None
) -> Tensor:
    """The tensor in `data`, with what is to be folded into it."""
    tensor = torch.frombuffer(data, dtype=SOURCE_DTYPES[info.dtype]).view(info.shape)
    return fold(info.name, tensor) if fold else tensor


def _copied(
    info: TensorInfo, data: bytearray, fold: Callable[[str, Tensor], Tensor]
) -> bytearray | memoryview:
    """The bytes of a tensor that keeps its dtype; untouched where nothing is folded into it."""
    if info.dtype not in SOURCE_DTYPES:
        return data
    return _raw(_folded(info, data, fold).to(SOURCE_DTYPES[info.dtype]))


def _write_encoded(
    writer: ShardWriter,
    info: TensorInfo,
    weight: Tensor,
    recipe: Recipe,
    input_scales: Mapping[str, Tensor],
) -> None:
    try:
        if recipe.format == "fp8":
            stored, scale = formats.encode_fp8(weight)
        else:
            stored, scale = formats.encode_int4(weight, recipe.group_size)
    except formats.EncodeError as error:
        raise BadInputError(f"{info.shard}: tensor {info.name}: {error}") from error
    prefix = info.name.rpartition(".")[0]
    writer.write(f"{prefix}.weight", _raw(stored))
    writer.write(f"{prefix}.weight_scale", _raw(scale))
    if info.name in input_scales:
        writer.write(f"{prefix}.input_scale", _raw(input_scales[info.name]))


def _raw(tensor: Tensor) -> memoryview:
    """A tensor's bytes without a copy."""
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


def _write_configuration(
    checkpoint: Checkpoint, recipe: Recipe, out: Path, weight_map: Mapping[str, str], size: int
) -> None:
    config = dict(checkpoint.config)
    if recipe.format != "bf16":
        ignored = ignored_modules(checkpoint.model, recipe)
        config = quantized_config(config, recipe, ignored)
        _write_json(out / "hf_quant_config.json", hf_quant_config(recipe, ignored))
    _write_json(out / "config.json", config)
    if (checkpoint.path / INDEX_NAME).is_file():
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        _write_json(out / INDEX_NAME, index)
    for name in COMPANIONS:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, out / name)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
