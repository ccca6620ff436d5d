"""Open a Hugging Face safetensors checkpoint: configuration, headers, lazy tensors.

Headers alone are read until a tensor is asked for. What is unsafe or inconsistent is refused with
the file's or tensor's name: pickles, paths that leave the directory, headers that lie.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from .errors import BadInputError
from .model_config import read_model
from .spec import DTYPE_BYTES, Model, generic_name

INDEX_NAME: Final = "model.safetensors.index.json"
SINGLE_NAME: Final = "model.safetensors"
PICKLE_SUFFIXES: Final = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

MAX_HEADER_BYTES: Final = 100_000_000
"""The safetensors format's own limit on a header."""

UNQUANTIZED_DTYPES: Final = ("BF16", "F16", "F32")

MAX_CONFIG_BYTES: Final = 10_000_000


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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint. `tensors` is in file order, shard by shard."""

    path: Path
    config: Mapping[str, Any]
    model: Model
    shards: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read configuration and headers of the checkpoint directory `path`.

        Raises `BadInputError` or `RefusedError` (another architecture) naming file, tensor or key.
        """
        if not path.is_dir():
            raise BadInputError(f"{path}: no such checkpoint directory")
        config = read_json(path / "config.json")
        model = read_model(config, path.name)
        shards, weight_map = _find_shards(path)
        tensors: dict[str, TensorInfo] = {}
        for shard in shards:
            for name, info in read_header(shard).items():
                if name in tensors:
                    raise BadInputError(
                        f"{shard}: tensor {name} also stands in {tensors[name].shard.name}"
                    )
                tensors[name] = info
        _match_index(path, weight_map, tensors)
        stored = {
            generic_name(info.name): info.dtype
            for info in tensors.values()
            if info.dtype in UNQUANTIZED_DTYPES
        }
        return cls(path, config, replace(model, dtypes=stored), shards, tensors)

    @property
    def is_quantized(self) -> bool:
        return "quantization_config" in self.config

    @property
    def bytes(self) -> int:
        return sum(info.bytes for info in self.tensors.values())

    def read(self, name: str) -> bytearray:
        """The raw little-endian bytes of tensor `name`."""
        info = self.tensors[name]
        data = bytearray(info.bytes)
        try:
            with info.shard.open("rb", buffering=0) as file:
                file.seek(info.start)
                view, done = memoryview(data), 0
                while done < len(data):
                    count = file.readinto(view[done:])
                    if not count:
                        break
                    done += count
        except OSError as error:
            raise BadInputError(f"{info.shard}: cannot read {name}: {error.strerror}") from error
        if done < len(data):
            raise BadInputError(
                f"{info.shard}: ends in the middle of tensor {name}; fetch it again"
            )
        return data

    def require_complete(self) -> None:
        """Check that names and shapes are exactly those the configuration calls for.

        Raises `BadInputError` naming the first tensor that is missing, has another shape, or that
        the model does not have.
        """
        expected = {name: group.shape for group in self.model.tensors() for name in group.names()}
        missing = [name for name in expected if name not in self.tensors]
        if missing:
            raise BadInputError(
                f"{self.path}: tensor {missing[0]} is missing"
                + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
                + "; is a shard or the index incomplete?"
            )
        for name, info in self.tensors.items():
            if name not in expected:
                raise BadInputError(
                    f"{info.shard}: tensor {name} is not part of a model with this config.json"
                )
            if info.shape != expected[name]:
                raise BadInputError(
                    f"{info.shard}: tensor {name} has shape {list(info.shape)}, but config.json "
                    f"calls for {list(expected[name])}"
                )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`. Raises `BadInputError` when it is missing, huge or malformed."""
    try:
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise BadInputError(f"{path}: {size} bytes is too large for a configuration file")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(f"{path.parent}: there is no {path.name} in it") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: holds no JSON object")
    return value


def _find_shards(path: Path) -> tuple[tuple[Path, ...], Mapping[str, str] | None]:
    """Shards in the index's order, and its weight map (None for a single file)."""
    if (path / INDEX_NAME).is_file():
        weight_map = read_json(path / INDEX_NAME).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BadInputError(f"{path / INDEX_NAME}: `weight_map` is missing or empty")
        for tensor, name in weight_map.items():
            _require_plain_name(path / INDEX_NAME, tensor, name)
        shards = tuple(path / name for name in dict.fromkeys(weight_map.values()))
        return shards, weight_map
    if (path / SINGLE_NAME).is_file():
        return (path / SINGLE_NAME,), None
    pickles = [file.name for file in path.iterdir() if file.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise BadInputError(
            f"{path / min(pickles)}: pickle weights can run code and are never loaded; get the "
            "model's safetensors files instead"
        )
    raise BadInputError(f"{path}: there is no {SINGLE_NAME} or {INDEX_NAME} in it")


def _require_plain_name(index: Path, tensor: str, name: object) -> None:
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise BadInputError(
            f"{index}: tensor {tensor} points to {name!r}; only a *.safetensors file of the same "
            "directory is allowed"
        )


def _match_index(
    path: Path, weight_map: Mapping[str, str] | None, tensors: Mapping[str, TensorInfo]
) -> None:
    if weight_map is None:
        return
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].shard.name != shard:
            raise BadInputError(f"{path / shard}: tensor {name} of the index is not in this shard")
    for name, info in tensors.items():
        if name not in weight_map:
            raise BadInputError(f"{info.shard}: tensor {name} is not in {INDEX_NAME}")


def read_header(shard: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, by offset.

    Checks all that the header claims: offsets inside the file, without hole or overlap, and as long
    as dtype and shape say. Raises `BadInputError` naming the file and the tensor.
    """
    try:
        with shard.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise BadInputError(
                    f"{shard}: truncated or no safetensors file (header of {length} bytes in a "
                    f"file of {size})"
                )
            header = json.loads(file.read(length), object_pairs_hook=_unique_keys)
    except FileNotFoundError:
        raise BadInputError(f"{shard}: this shard is missing") from None
    except OSError as error:
        raise BadInputError(f"{shard}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{shard}: its safetensors header is broken: {error}") from error
    if not isinstance(header, dict):
        raise BadInputError(f"{shard}: its safetensors header is no JSON object")
    header.pop("__metadata__", None)
    infos = [_tensor_info(shard, name, entry, 8 + length) for name, entry in header.items()]
    infos.sort(key=lambda info: (info.start, info.end))
    position = 8 + length
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


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands in it twice")
    return result


def _tensor_info(shard: Path, name: str, entry: Any, base: int) -> TensorInfo:
    """One header entry, checked on its own."""
    if not name or any(ord(letter) < 32 for letter in name):
        raise BadInputError(f"{shard}: tensor name {name!r} holds control characters")
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise BadInputError(f"{shard}: the header entry of tensor {name} is malformed") from None
    numbers = [start, end, *(shape if isinstance(shape, list) else [-1])]
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers):
        raise BadInputError(f"{shard}: the shape or offsets of tensor {name} are no whole numbers")
    if dtype not in DTYPE_BYTES:
        raise BadInputError(f"{shard}: tensor {name} has the unsupported dtype {dtype!r}")
    if end - start != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise BadInputError(
            f"{shard}: tensor {name} claims {end - start} bytes, but {dtype} {shape} takes "
            f"{int(math.prod(shape) * DTYPE_BYTES[dtype])}"
        )
    return TensorInfo(name, dtype, tuple(shape), shard, base + start, base + end)
