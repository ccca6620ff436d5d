"""Take a quantized checkpoint over: the same integers and scales, in the layout that engines read.

Nothing is quantized again. A shard that is in that layout already, under the hub's names, stays the
file it is. Of the rest, words of packed columns become bytes of packed rows, and scales get their
dtype and shape: both exactly. Every scale is checked on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..core.errors import BadInputError
from ..core.untrusted import read_json
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
from .layouts import DEFAULT
from .shard_writer import Entry


@dataclass(frozen=True)
class Takeover(ShardJob):
    """A quantized checkpoint that is taken over."""

    quantization: Quantization
    targets: Mapping[str, StoredTensor | None]
    """What each tensor of a quantized matrix, and each scale, becomes; None: it is left out."""

    def changes(self, name: str) -> bool:
        """Whether the tensor `name` is a scale, which is checked, or becomes another one."""
        return name in self.targets

    def changed(
        self, info: TensorInfo, data: bytearray
    ) -> tuple[Mapping[str, Tensor], Deviation | None]:
        """The tensor that `info` becomes, if it does. Raises `BadInputError` for a scale that is no
        positive number, and for a packed matrix of another shape than the configuration's."""
        owner, _, suffix = info.name.rpartition(".")
        tensor = torch.frombuffer(data, dtype=STORED_DTYPES[info.dtype]).view(info.shape)
        target = self.targets[info.name]
        if suffix == SHAPE:
            _require_shape(info, tensor, self.groups[f"{owner}.{WEIGHT}"].shape)
        if target is None:
            return {}, None
        if suffix == PACKED:
            tensor = _repacked(tensor, target)
        elif target.suffix != WEIGHT:
            _require_scales(info, tensor, zero=info.dtype == _BLOCK_SCALE)
            tensor = tensor.to(STORED_DTYPES[target.dtype]).view(target.shape)
        return {f"{owner}.{target.suffix}": tensor}, None

    def added(self, name: str) -> Mapping[str, Tensor]:
        """Nothing: all scales are there."""
        return {}

    def entries(self, info: TensorInfo) -> tuple[Entry, ...]:
        """What the tensor `info` becomes."""
        if info.name not in self.targets:
            return (Entry(info.name, info.dtype, info.shape),)
        target = self.targets[info.name]
        owner = info.name.rpartition(".")[0]
        return (Entry(f"{owner}.{target.suffix}", target.dtype, target.shape),) if target else ()

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


def takeover(checkpoint: Checkpoint) -> Takeover:
    """Plan to take over a quantized `checkpoint`.

    Raises `BadInputError` for a checkpoint that is not whole, `RefusedError` for widths that do not
    divide.
    """
    checkpoint.require_complete()
    quantization = checkpoint.quantization
    assert quantization is not None, "an unquantized checkpoint is quantized, not taken over"
    groups = {name: group for group in checkpoint.model.tensors() for name in group.names()}
    targets: dict[str, StoredTensor | None] = {}
    for name, group in groups.items():
        if encoding := quantization.encodings.get(group.template):
            owner = name.rpartition(".")[0]
            targets |= _targets(checkpoint, owner, DEFAULT.stored(encoding.format, group))
    for name, info in checkpoint.tensors.items():
        if name.endswith(KV_SCALES):
            targets[name] = StoredTensor(name.rpartition(".")[2], "F32", ())
        if name in targets and info.dtype not in STORED_DTYPES:
            raise BadInputError(f"{info.shard}: tensor {name} has the dtype {info.dtype}")
    return Takeover(checkpoint, quantization.recipe, DEFAULT, groups, quantization, targets)


def _targets(
    checkpoint: Checkpoint, owner: str, stored: tuple[StoredTensor, ...]
) -> dict[str, StoredTensor | None]:
    """What the tensors of the matrix `owner` become, as far as they are checked or changed."""
    by_suffix = {tensor.suffix: tensor for tensor in stored}
    targets: dict[str, StoredTensor | None] = {}
    for suffix in (PACKED, SHAPE, *SCALES):
        name = f"{owner}.{suffix}"
        if info := checkpoint.tensors.get(name):
            kept = StoredTensor(suffix, info.dtype, info.shape)
            target = by_suffix.get(WEIGHT if suffix == PACKED else suffix, kept)
            targets[name] = None if suffix == SHAPE else target
    return targets


def _repacked(packed: Tensor, target: StoredTensor) -> Tensor:
    """Integers in words of columns (int32 [N, K*b/32]) as ModelOpt's layout has them."""
    if target.dtype == "I8":
        return formats.unpack_int8_columns(packed)
    return formats.pack_int4(formats.unpack_int4_columns(packed))


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
