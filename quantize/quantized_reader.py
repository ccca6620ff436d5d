"""Reads a quantized checkpoint as it lies on the disk: its values, and how an engine rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import BadInputError
from ..model.architecture import TensorGroup
from ..model.checkpoint import Checkpoint
from ..runtime import formats
from .layerwise import STORED_DTYPES
from .roundings import Rounding, to_fp8, to_nvfp4


class QuantizedReader:
    """Reads a quantized checkpoint as it lies on the disk, in any layout that `runtime/formats.py`
    decodes."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._by_owner: dict[str, list[str]] = defaultdict(list)
        for name in checkpoint.tensors:
            self._by_owner[name.rpartition(".")[0]].append(name)

    def __call__(self, name: str) -> Tensor:
        """The values of the parameter `name`; float32 where it is quantized."""
        stored = {other: self._stored(other) for other in self._by_owner[name.rpartition(".")[0]]}
        decoded = formats.decode_checkpoint(stored, torch.float32)
        if name not in decoded:
            raise BadInputError(f"{self._checkpoint.path}: tensor {name} is missing")
        return decoded[name]

    def quantized(self, group: TensorGroup) -> bool:
        """Whether the tensors of `group` are quantized."""
        owner = next(group.names()).rpartition(".")[0]
        return f"{owner}.weight_scale" in self._checkpoint.tensors

    def roundings(self, groups: Sequence[TensorGroup], fp8_kv: bool) -> dict[str, Rounding]:
        """How the inputs of each quantized tensor, and keys and values, are rounded (see
        `round_activations`): by the checkpoint's scales, with `fp8_kv` by a scale of 1 where keys
        and values have none. Of experts the first stands for all, with the largest scale."""
        roundings = {}
        for group in groups:
            owners = [name.rpartition(".")[0] for name in group.names()]
            scales = [scale for owner in owners if (scale := self._scale(f"{owner}.input_scale"))]
            if scales:
                stored = self._checkpoint.tensors[f"{owners[0]}.weight"].dtype
                make = to_nvfp4 if stored == "U8" else _by_fp8_scale
                roundings[f"{owners[0]}.weight"] = make(max(scales))
            if group.makes_kv:
                (owner,) = owners
                name = f"{owner}.{owner.removesuffix('_proj')[-1]}_scale"
                if scale := self._scale(name) or float(fp8_kv):
                    roundings[name] = _by_fp8_scale(scale)
        return roundings

    def _scale(self, name: str) -> float | None:
        return float(self._stored(name)) if name in self._checkpoint.tensors else None

    def _stored(self, name: str) -> Tensor:
        info = self._checkpoint.tensors[name]
        if info.dtype not in STORED_DTYPES:
            raise BadInputError(f"{info.shard}: tensor {name} has the dtype {info.dtype}")
        data = self._checkpoint.read(name)
        return torch.frombuffer(data, dtype=STORED_DTYPES[info.dtype]).view(info.shape)


def _by_fp8_scale(scale: float) -> Rounding:
    return to_fp8(scale * formats.FP8_MAX)
