"""Take a quantized checkpoint over: same integers and scales, in the layout that an engine reads.

Nothing is quantized again. A shard that is in that layout already, under the hub's names, stays the
file it is. Of the rest, words of packed columns become bytes of packed rows, or the reverse, and
scales get their dtype and shape: both exactly, or not at all. Every scale is checked on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..core.errors import BadInputError, RefusedError
from ..core.untrusted import read_json
from ..model.architecture import TensorGroup
from ..model.checkpoint import Checkpoint
from ..model.contents import CONFIGURATION
from ..model.declared import HF_QUANT_CONFIG
from ..model.encodings import PACKED, SCALES, SHAPE, WEIGHT
from ..model.headers import TensorInfo
from ..model.quantized import KV_SCALES, Quantization
from ..model.weight_format import StoredTensor
from ..runtime import formats
from ..runtime.formats import Deviation
from .job import ShardJob
from .layerwise import STORED_DTYPES
from .layouts import DEFAULT, Layout
from .shard_writer import Entry


@dataclass(frozen=True)
class Takeover(ShardJob):
    """A quantized checkpoint that is taken over."""

    quantization: Quantization
    targets: Mapping[str, tuple[StoredTensor, ...]]
    """What each tensor of a quantized matrix, and each scale, becomes; nothing: it is left out."""

    def changes(self, name: str) -> bool:
        """Whether the tensor `name` is a scale, which is checked, or becomes another one."""
        return name in self.targets

    def changed(
        self, info: TensorInfo, data: bytearray
    ) -> tuple[Mapping[str, Tensor], Deviation | None]:
        """The tensors that `info` becomes, if any. Raises `BadInputError` for a scale that is no
        positive number, and for a packed matrix of another shape than the configuration's;
        `RefusedError` for a scale that the layout's dtype does not hold."""
        owner, _, suffix = info.name.rpartition(".")
        tensor = torch.frombuffer(data, dtype=STORED_DTYPES[info.dtype]).view(info.shape)
        if suffix == SHAPE:
            _require_shape(info, tensor, self._group(info).shape)
        elif suffix not in (WEIGHT, PACKED):
            _require_scales(info, tensor, zero=info.dtype == _BLOCK_SCALE)
        return {
            f"{owner}.{target.suffix}": self._converted(info, tensor, target)
            for target in self.targets[info.name]
        }, None

    def _converted(self, info: TensorInfo, tensor: Tensor, target: StoredTensor) -> Tensor:
        """What the stored `tensor` becomes as `target`."""
        if (target.dtype, target.shape) == (info.dtype, info.shape):
            return tensor
        if target.suffix == SHAPE:
            return torch.tensor(self._group(info).shape, dtype=torch.int64)
        if target.suffix in (PACKED, WEIGHT):
            bits = self.quantization.encodings[self._group(info).template].format.integer_bits
            return _repacked(tensor, bits, target)
        converted = tensor.to(STORED_DTYPES[target.dtype])
        if not torch.equal(converted.float(), tensor.float()):
            raise RefusedError(
                f"{info.shard}: tensor {info.name} holds scales that {target.dtype} does not hold "
                f"exactly, and the layout {self.layout.key} stores them so (rule: layout): they "
                "would change the weights. What works instead: an engine that reads "
                f"{self.quantization.layout}, or the unquantized original"
            )
        return converted.view(target.shape)

    def _group(self, info: TensorInfo) -> TensorGroup:
        """The group of the matrix that the tensor `info` belongs to."""
        return self.groups[f"{info.name.rpartition('.')[0]}.{WEIGHT}"]

    def added(self, name: str) -> Mapping[str, Tensor]:
        """Nothing: all scales are there."""
        return {}

    def entries(self, info: TensorInfo) -> tuple[Entry, ...]:
        """What the tensor `info` becomes."""
        if info.name not in self.targets:
            return (Entry(info.name, info.dtype, info.shape),)
        owner = info.name.rpartition(".")[0]
        return tuple(
            Entry(f"{owner}.{target.suffix}", target.dtype, target.shape)
            for target in self.targets[info.name]
        )

    def keeps(self, shard: Path, infos: Sequence[TensorInfo]) -> bool:
        """Whether the shard holds what it will hold, under the names that it will have."""
        return shard in self.checkpoint.plain and all(
            self.entries(info) == (Entry(info.name, info.dtype, info.shape),) for info in infos
        )

    def configuration(self) -> Mapping[str, Mapping[str, Any]]:
        """The configuration files of the source where they are right about its tensors; where they
        are not, or tensors are laid out anew, those that the layout writes."""
        source = self.checkpoint
        written = self.layout.configuration(
            source.config, source.model, self.recipe, self.recipe.has_fp8_kv
        )
        if not self.quantization.agrees or self.quantization.layout != self.layout.key:
            return written
        carried = {CONFIGURATION: source.config}
        if (source.path / HF_QUANT_CONFIG).is_file():
            carried[HF_QUANT_CONFIG] = read_json(source.path / HF_QUANT_CONFIG)
        return {**written, **carried}

    def identity(self) -> dict[str, Any]:
        """All that the bytes of a finished shard depend on, except the source's own bytes."""
        return ShardJob.identity(self) | {"taken over": self.quantization.layout}


def takeover(checkpoint: Checkpoint, layout: Layout = DEFAULT) -> Takeover:
    """Plan to take over a quantized `checkpoint` in `layout`.

    Raises `BadInputError` for a checkpoint that is not whole, `RefusedError` for widths that do not
    divide.
    """
    checkpoint.require_complete()
    quantization = checkpoint.quantization
    assert quantization is not None, "an unquantized checkpoint is quantized, not taken over"
    groups = {name: group for group in checkpoint.model.tensors() for name in group.names()}
    targets: dict[str, tuple[StoredTensor, ...]] = {}
    for name, group in groups.items():
        if encoding := quantization.encodings.get(group.template):
            owner = name.rpartition(".")[0]
            targets |= _targets(checkpoint, owner, layout.stored(encoding.format, group))
    for name, info in checkpoint.tensors.items():
        if name.endswith(KV_SCALES):
            targets[name] = (StoredTensor(name.rpartition(".")[2], "F32", ()),)
        if name in targets and info.dtype not in STORED_DTYPES:
            raise BadInputError(f"{info.shard}: tensor {name} has the dtype {info.dtype}")
    return Takeover(checkpoint, quantization.recipe, layout, groups, quantization, targets)


def _targets(
    checkpoint: Checkpoint, owner: str, stored: tuple[StoredTensor, ...]
) -> dict[str, tuple[StoredTensor, ...]]:
    """What the tensors of the matrix `owner` become, as far as they are checked or changed. Its
    shape goes with the matrix, where the layout stores it."""
    by_suffix = {tensor.suffix: tensor for tensor in stored}
    matrix = PACKED if PACKED in by_suffix else WEIGHT
    shape = (by_suffix[SHAPE],) if SHAPE in by_suffix else ()
    targets: dict[str, tuple[StoredTensor, ...]] = {}
    for suffix in (WEIGHT, PACKED, SHAPE, *SCALES):
        name = f"{owner}.{suffix}"
        info = checkpoint.tensors.get(name)
        if info is None:
            continue
        if suffix == SHAPE:
            targets[name] = shape
        elif suffix == matrix == PACKED:
            targets[name] = (by_suffix[PACKED],)
        elif suffix in (WEIGHT, PACKED) and suffix != matrix:
            added = () if f"{owner}.{SHAPE}" in checkpoint.tensors else shape
            targets[name] = (by_suffix[matrix], *added)
        elif suffix in SCALES:
            kept = StoredTensor(suffix, info.dtype, info.shape)
            targets[name] = (by_suffix.get(suffix, kept),)
    return targets


def _repacked(stored: Tensor, bits: int, target: StoredTensor) -> Tensor:
    """Integers of 4 or 8 bits as another layout has them: in words of columns (int32), or in bytes,
    of which one holds two rows of 4 bits."""
    if stored.dtype is torch.int32:
        unpack = formats.unpack_int8_columns if bits == 8 else formats.unpack_int4_columns
        integers = unpack(stored)
    else:
        integers = stored if bits == 8 else formats.unpack_int4(stored)
    if target.dtype == "I32":
        return formats.pack_columns(integers, bits)
    return integers if bits == 8 else formats.pack_int4(integers)


_BLOCK_SCALE: Final = "F8_E4M3"
"""The dtype of NVFP4's scales of blocks. One of zero stands for a block of zeros, which is what
becomes of weights too small for the tensor's second scale."""


def _require_scales(info: TensorInfo, scales: Tensor, *, zero: bool) -> None:
    """Raise `BadInputError` for a scale that is no positive number, or none but `zero`."""
    values = scales.float()
    positive = values >= 0 if zero else values > 0
    if not bool((torch.isfinite(values) & positive).all()):
        raise BadInputError(
            f"{info.shard}: tensor {info.name} holds a scale that is no positive number"
        )


def _require_shape(info: TensorInfo, stored: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(stored.tolist()) != shape:
        raise BadInputError(
            f"{info.shard}: tensor {info.name} is {stored.tolist()}, but the matrix has the shape "
            f"{list(shape)}"
        )
