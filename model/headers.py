"""Read headers of safetensors files that somebody else made, and refuse what lies."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from ..core.errors import BadInputError
from ..core.untrusted import open_inside
from ..runtime.untrusted import Signature, brief, parse_json, signature
from .architecture import DTYPE_BYTES
from .contents import START_BYTES, not_safetensors
from .shards import missing_shard

MAX_HEADER_BYTES: Final = 8_000_000
"""Longest header. The format allows 100 MB, which take gigabytes as Python objects; all 42,683
tensors of Nemotron 3 Super in a single file would make 6 MB, and shards of 5 GB hold far fewer."""

MAX_TENSORS: Final = 250_000
"""Most tensors of a checkpoint: over five times Nemotron 3 Super's, so quantized ones fit, too."""

MAX_NAME: Final = 500
MAX_RANK: Final = 8
MAX_SIZE: Final = 2**63 - 1
"""Limits on one tensor: letters of its name, dimensions, and any offset, dimension or size."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: bytes `start` to `end` of the file `shard`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Path
    start: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.start


def read_header(shard: Path) -> tuple[dict[str, TensorInfo], Signature]:
    """The tensors of one safetensors file, by offset, and the signature of the file they were read
    from.

    Checks all that the header claims: offsets inside the file, without hole or overlap, and as long
    as dtype and shape say. Raises `BadInputError` naming the file and the tensor.
    """
    try:
        with open_inside(shard) as file:
            file_signature = signature(file.fileno())
            start, size = file.read(START_BYTES), os.fstat(file.fileno()).st_size
            length = int.from_bytes(start[:8], "little")
            if size < 8 or not 0 < length <= min(size - 8, MAX_HEADER_BYTES):
                _refuse_length(shard, start, size)
            file.seek(8)
            text = file.read(length)
    except FileNotFoundError:
        raise BadInputError(missing_shard(shard)) from None
    except OSError as error:
        raise BadInputError(f"{shard}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadInputError(f"{brief(str(shard), 200)}: no file name: {error}") from error
    return parse_header(shard, size, text), file_signature


def _refuse_length(shard: Path, start: bytes, size: int) -> NoReturn:
    if known := not_safetensors(start):
        raise BadInputError(f"{shard}: {known}")
    length = int.from_bytes(start[:8], "little")
    if MAX_HEADER_BYTES < length <= size - 8:
        raise BadInputError(
            f"{shard}: its header of {length} bytes is longer than {MAX_HEADER_BYTES}"
        )
    if length == 0 and size >= 8:
        raise BadInputError(f"{shard}: its safetensors header is broken: it has no bytes")
    raise BadInputError(
        f"{shard}: truncated or no safetensors file (header of {length} bytes in a file of {size})"
    )


def parse_header(shard: Path, size: int, text: bytes) -> dict[str, TensorInfo]:
    """As `read_header`, for the header `text` of a file of `size` bytes read by other means."""
    try:
        header = parse_json(text)
    except ValueError as error:
        raise BadInputError(f"{shard}: its safetensors header is broken: {error}") from error
    if not isinstance(header, dict):
        raise BadInputError(f"{shard}: its safetensors header is no JSON object")
    header.pop("__metadata__", None)
    position = 8 + len(text)
    infos = [_tensor_info(shard, name, entry, position) for name, entry in header.items()]
    infos.sort(key=lambda info: (info.start, info.end))
    for info in infos:
        if info.start != position:
            raise BadInputError(f"{shard}: tensor {info.name} leaves a hole or overlaps another")
        position = info.end
    if position > size:
        raise BadInputError(
            f"{shard}: truncated: its header calls for {position} bytes, the file has {size}; "
            "fetch it again"
        )
    if position < size:
        raise BadInputError(f"{shard}: {size - position} bytes follow its last tensor")
    return {info.name: info for info in infos}


def _tensor_info(shard: Path, name: str, entry: Any, base: int) -> TensorInfo:
    """One header entry, checked on its own."""
    if not name or len(name) > MAX_NAME or any(ord(letter) < 32 for letter in name):
        raise BadInputError(
            f"{shard}: tensor name {brief(name)!r} is empty, too long or holds control characters"
        )
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise BadInputError(f"{shard}: the header entry of tensor {name} is malformed") from None
    numbers = [start, end, *(shape if isinstance(shape, list) else [-1])]
    if len(numbers) > 2 + MAX_RANK or not all(_is_size(number) for number in numbers):
        raise BadInputError(
            f"{shard}: the shape or offsets of tensor {name} are no whole numbers below 2^63, or "
            f"more than {MAX_RANK}"
        )
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise BadInputError(f"{shard}: tensor {name} has the unsupported dtype {brief(dtype)!r}")
    bytes_called_for = int(math.prod(shape) * DTYPE_BYTES[dtype])
    if end - start != bytes_called_for:
        raise BadInputError(
            f"{shard}: tensor {name} claims {end - start} bytes, but {dtype} {shape} takes "
            f"{bytes_called_for}"
        )
    return TensorInfo(name, dtype, tuple(shape), shard, base + start, base + end)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE
