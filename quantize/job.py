"""What becomes of every tensor of a checkpoint, planned before any weight is read: names, shapes,
scales and positions. `Job` is a quantization."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..core.errors import BadInputError, RefusedError
from ..model.architecture import TensorGroup
from ..model.checkpoint import Checkpoint
from ..model.contents import CONFIGURATION, CONSOLIDATED_NAME, SINGLE_NAME
from ..model.headers import TensorInfo
from ..model.recipe import Recipe
from ..model.weight_format import WeightFormat
from ..runtime import formats
from ..runtime.formats import Deviation
from .encoding import ENCODING
from .layerwise import SOURCE_DTYPES
from .layouts import Layout
from .shard_writer import Entry
from .smooth import Folding


@dataclass(frozen=True, slots=True)
class Shard:
    """A source shard and what each of its tensors becomes, in the order of the file. With `kept`,
    the output is the very file."""

    path: Path
    infos: tuple[TensorInfo, ...]
    entries: Mapping[str, tuple[Entry, ...]]
    kept: bool = False

    @property
    def name(self) -> str:
        """The output shard's. Engines pass over a file that is called consolidated."""
        return SINGLE_NAME if self.path.name == CONSOLIDATED_NAME else self.path.name

    @property
    def source_bytes(self) -> int:
        return sum(info.bytes for info in self.infos)

    def flat_entries(self) -> Iterator[Entry]:
        """Every tensor of the output shard."""
        for entries in self.entries.values():
            yield from entries


@dataclass(frozen=True)
class ShardJob(ABC):
    """What becomes of a checkpoint, shard by shard: every output shard holds what its source shard
    becomes. `recipe` says what the result holds, `layout` how."""

    checkpoint: Checkpoint
    recipe: Recipe
    layout: Layout
    groups: Mapping[str, TensorGroup]

    @abstractmethod
    def changes(self, name: str) -> bool:
        """Whether the tensor `name` is handed to `changed` whole, rather than copied in pieces."""

    @abstractmethod
    def changed(
        self, info: TensorInfo, data: bytearray
    ) -> tuple[Mapping[str, Tensor], Deviation | None]:
        """The tensors that replace one with the bytes `data`, by name, and what rounding cost.
        Raises `BadInputError` for values that cannot be used."""

    @abstractmethod
    def added(self, name: str) -> Mapping[str, Tensor]:
        """The tensors by name that are put beside the tensor `name`."""

    @abstractmethod
    def entries(self, info: TensorInfo) -> tuple[Entry, ...]:
        """What the tensor `info` becomes in the output shard, with what is added to it."""

    @abstractmethod
    def configuration(self) -> Mapping[str, Mapping[str, Any]]:
        """The configuration files of the result, by name."""

    def keeps(self, shard: Path, infos: Sequence[TensorInfo]) -> bool:
        """Whether the output of `shard`, which holds `infos`, is the very file."""
        return False

    @property
    def quantized_count(self) -> int:
        """Quantized matrices of the result."""
        return sum(self.recipe.quantizes(group) for group in self.groups.values())

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards, in the checkpoint's order."""
        by_shard: dict[Path, list[TensorInfo]] = {path: [] for path in self.checkpoint.shards}
        for info in sorted(self.checkpoint.tensors.values(), key=lambda info: info.start):
            by_shard[info.shard].append(info)
        return tuple(
            Shard(
                path,
                tuple(infos),
                {info.name: self.entries(info) for info in infos},
                self.keeps(path, infos),
            )
            for path, infos in by_shard.items()
        )

    @property
    def written_bytes(self) -> int:
        """Tensor bytes of the result."""
        return sum(entry.bytes for shard in self.shards for entry in shard.flat_entries())

    def identity(self) -> dict[str, Any]:
        """All that the bytes of a finished shard depend on, except the source's own bytes."""
        tensors = [
            [info.name, info.dtype, info.shape, info.shard.name, info.start]
            for info in self.checkpoint.tensors.values()
        ]
        return {
            "encoding": ENCODING,
            "recipe": self.recipe.identity(),
            "layout": self.layout.key,
            "tensors": tensors,
        }


@dataclass(frozen=True)
class Job(ShardJob):
    """A planned quantization. `scales` are the scalar tensors that calibration adds: by weight,
    then by their own full name."""

    scales: Mapping[str, Mapping[str, Tensor]]
    folding: Folding | None

    def quantizes(self, name: str) -> bool:
        """Whether the tensor `name` is encoded."""
        return self.recipe.quantizes(self.groups[name])

    def format_of(self, name: str) -> WeightFormat:
        """The format of the tensor `name`, which is encoded."""
        kind = self.recipe.format_of(self.groups[name])
        assert kind is not None, f"{name} is encoded"
        return kind

    def changes(self, name: str) -> bool:
        """Whether the tensor `name` is encoded or folded rather than copied."""
        return self.quantizes(name) or name in self._folded

    @cached_property
    def _folded(self) -> frozenset[str]:
        if self.folding is None:
            return frozenset()
        return frozenset(self.folding.inputs) | frozenset(self.folding.outputs)

    def changed(
        self, info: TensorInfo, data: bytearray
    ) -> tuple[Mapping[str, Tensor], Deviation | None]:
        """The tensors that replace one that is encoded or only folded."""
        dtype = SOURCE_DTYPES[info.dtype]
        weight = torch.frombuffer(data, dtype=dtype).view(info.shape)
        if self.folding:
            weight = self.folding(info.name, weight)
        if not self.quantizes(info.name):
            return {info.name: weight.to(dtype)}, None
        deviation = Deviation()
        try:
            encoded = self.layout.encode(weight, self.format_of(info.name), deviation)
        except formats.EncodeError as error:
            raise BadInputError(f"{info.shard}: tensor {info.name}: {error}") from error
        owner = info.name.rpartition(".")[0]
        return {f"{owner}.{suffix}": tensor for suffix, tensor in encoded.items()}, deviation

    def added(self, name: str) -> Mapping[str, Tensor]:
        """The scales that calibration puts beside the tensor `name`."""
        return self.scales.get(name, {})

    def configuration(self) -> Mapping[str, Mapping[str, Any]]:
        """The source's `config.json`, and what the layout says of a quantization."""
        source = self.checkpoint
        if not self.recipe.choices:
            return {CONFIGURATION: source.config}
        return self.layout.configuration(
            source.config, source.model, self.recipe, self.has_kv_scales
        )

    @property
    def has_kv_scales(self) -> bool:
        return any(name.endswith(KV_SUFFIXES) for row in self.scales.values() for name in row)

    def entries(self, info: TensorInfo) -> tuple[Entry, ...]:
        """What the tensor `info` becomes in the output shard."""
        added = tuple(Entry(name, "F32", ()) for name in self.scales.get(info.name, {}))
        if self.changes(info.name) and info.dtype not in SOURCE_DTYPES:
            raise BadInputError(
                f"{info.shard}: tensor {info.name} has dtype {info.dtype}; only "
                f"{', '.join(SOURCE_DTYPES)} can be quantized"
            )
        if not self.quantizes(info.name):
            return (Entry(info.name, info.dtype, info.shape), *added)
        prefix = info.name.rpartition(".")[0]
        stored = (
            Entry(f"{prefix}.{tensor.suffix}", tensor.dtype, tensor.shape)
            for tensor in self.layout.stored(self.format_of(info.name), self.groups[info.name])
            if tensor.suffix != "input_scale"
        )
        return (*stored, *added)

    def identity(self) -> dict[str, Any]:
        """All that the bytes of a finished shard depend on, except the source's own bytes."""
        scales = {name: float(scale) for row in self.scales.values() for name, scale in row.items()}
        return ShardJob.identity(self) | {
            "scales": scales,
            "folding": _digest_of_folding(self.folding),
        }


KV_SUFFIXES: Final = (".k_scale", ".v_scale")


def prepare(
    checkpoint: Checkpoint,
    recipe: Recipe,
    layout: Layout,
    amax: Mapping[str, float] | None = None,
    folding: Folding | None = None,
) -> Job:
    """Plan a quantization; the arguments are those of `stream.quantize`.

    Raises `BadInputError` for a checkpoint that is quantized already, incomplete or of other
    dtypes, `RefusedError` for widths that do not divide, and for scales that are missing or have no
    place.
    """
    checkpoint.require_unquantized()
    groups = {name: group for group in checkpoint.model.tensors() for name in group.names()}
    scales = _input_scales(recipe, groups, amax or {})
    for name, row in _kv_scales(layout, groups, amax or {}).items():
        scales.setdefault(name, {}).update(row)
    job = Job(checkpoint, recipe, layout, groups, scales, folding)
    _ = job.shards  # refuses dtypes and widths now
    return job


def preview(checkpoint: Checkpoint, recipe: Recipe, layout: Layout) -> Job:
    """A quantization as it will be after its calibration, for its sizes. Raises as `prepare`."""
    # Scales of activations take a few bytes a tensor; any value stands for what calibration finds.
    groups = filter(recipe.quantizes, checkpoint.model.tensors())
    amax = {name: 1.0 for group in groups for name in group.names()}
    return prepare(checkpoint, recipe, layout, amax)


def _input_scales(
    recipe: Recipe, groups: Mapping[str, TensorGroup], amax: Mapping[str, float]
) -> dict[str, dict[str, Tensor]]:
    """Activation scale of each tensor whose format has one."""
    wanted = [
        name
        for name, group in groups.items()
        if (kind := recipe.format_of(group)) and kind.scales_activations
    ]
    missing = [name for name in wanted if not amax.get(name, 0.0) > 0.0]
    if missing:
        raise RefusedError(
            f"{len(missing)} of {len(wanted)} activation scales are missing, the first is that of "
            f"{missing[0]} (rule: fp8-activations): without them, the checkpoint would load "
            "and answer nonsense. Calibrate with more text, or use --quant int4, which needs none."
        )
    return {name: {f"{name.rpartition('.')[0]}.input_scale": _scale(amax[name])} for name in wanted}


def _kv_scales(
    layout: Layout, groups: Mapping[str, TensorGroup], amax: Mapping[str, float]
) -> dict[str, dict[str, Tensor]]:
    """Scales of the FP8 KV cache, by the projection beside which they stand; all or none."""
    wanted = {}
    for name, group in groups.items():
        if group.makes_kv:
            side = name.removesuffix("_proj.weight")[-1]
            wanted[name] = f"{name.rpartition('.')[0]}.{side}_scale"
    given = {name for name in amax if name.endswith(KV_SUFFIXES)}
    if not given:
        return {}
    missing = [name for name in wanted.values() if not amax.get(name, 0.0) > 0.0]
    if missing:
        raise RefusedError(
            f"{len(missing)} of {len(wanted)} KV-cache scales are missing, the first is "
            f"{missing[0]} (rule: fp8-kv): either every attention layer has one or none has. "
            "Calibrate with more text."
        )
    if not layout.kv_scales:
        raise RefusedError(
            f"--layout {layout.key} cannot store KV-cache scales (rule: fp8-kv). What works "
            "instead: --layout modelopt"
        )
    return {weight: {scale: _scale(amax[scale])} for weight, scale in wanted.items()}


def _scale(amax: float) -> Tensor:
    return formats.fp8_scale(torch.tensor(amax))


def raw_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes, without a copy where it is contiguous."""
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


def _digest_of_folding(folding: Folding | None) -> str:
    digest = hashlib.sha256()
    for side in (folding.inputs, folding.outputs) if folding else ():
        for name, scale in sorted(side.items()):
            digest.update(f"{name}:{tuple(scale.shape)}:".encode())
            digest.update(raw_bytes(scale.detach().cpu()))
        digest.update(b"|")
    return digest.hexdigest()
