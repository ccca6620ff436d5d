"""Open a Hugging Face safetensors checkpoint: configuration, headers, lazy tensors.

Only headers are read until a tensor is needed. What is unsafe or inconsistent is refused with
the file's or tensor's name: pickles, paths that leave the directory, headers that lie.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from ..core.errors import BadInputError
from ..core.untrusted import open_inside, read_json, require_links_inside
from ..runtime.untrusted import Signature, brief, parse_json, signature
from .architecture import DTYPE_BYTES, Model, generic_name
from .config import read_model
from .tokenizer import TOKENIZER_NAME, check_tokenizer

INDEX_NAME: Final = "model.safetensors.index.json"
SINGLE_NAME: Final = "model.safetensors"
COMPANIONS: Final = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
"""What belongs to a model besides configuration and shards. Code (`*.py`) never does."""

PICKLE_SUFFIXES: Final = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

FOREIGN_MAGIC: Final = {
    b"GGUF": "a GGUF file",
    b"PK\3\4": "a pickle",  # torch.save's archive
    **{bytes((0x80, protocol)): "a pickle" for protocol in range(2, 6)},
}
"""How files begin that are sometimes given a safetensors file's name."""

MAX_HEADER_BYTES: Final = 8_000_000
"""Longest header. The format allows 100 MB, which take gigabytes as Python objects; all 42,683
tensors of Nemotron 3 Super in a single file would make 6 MB, and shards of 5 GB hold far fewer."""

MAX_SHARDS: Final = 1_000
MAX_TENSORS: Final = 250_000
"""Most tensors of a checkpoint: over five times Nemotron 3 Super's, so quantized ones fit, too."""

MAX_NAME: Final = 500
MAX_RANK: Final = 8
MAX_SIZE: Final = 2**63 - 1
"""Limits on one tensor: letters of its name, dimensions, and any offset, dimension or size."""

UNQUANTIZED_DTYPES: Final = ("BF16", "F16", "F32")


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
class RemoteShard:
    """A shard that is still elsewhere: the path it will have here, its size and its header."""

    path: Path
    size: int
    header: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint. `tensors` is in file order, shard by shard."""

    path: Path
    config: Mapping[str, Any]
    model: Model
    shards: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]
    signatures: Mapping[Path, Signature] = field(default_factory=dict, repr=False, compare=False)
    """Of each shard that was here, what tells whether it is still the file that was checked."""

    @classmethod
    def open(
        cls, path: Path, remote: Sequence[RemoteShard] = (), name: str | None = None
    ) -> Checkpoint:
        """Read configuration and headers of the checkpoint directory `path`.

        `remote` replaces shards that are not in `path`; `read` works once they have arrived.
        The model is called `name`, or else after the directory.
        Raises `BadInputError` or `RefusedError` (another architecture) naming file, tensor or key.
        """
        if not path.is_dir():
            raise BadInputError(f"{path}: no such checkpoint directory")
        require_links_inside(path)
        config = read_configuration(path / "config.json")
        model = read_model(config, name or path.name)
        elsewhere = {shard.path.name: shard for shard in remote}
        names, weight_map = find_shards(path, elsewhere)
        shards = tuple(elsewhere[n].path if n in elsewhere else path / n for n in names)
        tensors: dict[str, TensorInfo] = {}
        signatures: dict[Path, Signature] = {}
        for shard in shards:
            absent = elsewhere.get(shard.name)
            if absent:
                header = parse_header(shard, absent.size, absent.header)
            else:
                header, signatures[shard] = _read_signed_header(shard)
            if len(tensors) + len(header) > MAX_TENSORS:
                raise BadInputError(f"{shard}: the checkpoint has more than {MAX_TENSORS} tensors")
            for name, info in header.items():
                if name in tensors:
                    raise BadInputError(f"{shard}: tensor {name} is in {tensors[name].shard.name}")
                tensors[name] = info
        _match_index(path, weight_map, tensors)
        stored = {
            generic_name(info.name): info.dtype
            for info in tensors.values()
            if info.dtype in UNQUANTIZED_DTYPES
        }
        return cls(path, config, replace(model, dtypes=stored), shards, tensors, signatures)

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
            with open_inside(info.shard) as file:
                self.require_unchanged(info.shard, file.fileno())
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

    def require_unchanged(self, shard: Path, descriptor: int) -> None:
        """Raise `BadInputError` when the opened `shard` is not the file whose header was checked.

        Says nothing of a shard that was elsewhere then.
        """
        if self.signatures.get(shard, now := signature(descriptor)) != now:
            raise BadInputError(f"{shard}: changed while it was in use; run the command again")

    def require_complete(self) -> None:
        """Check that names and shapes are exactly those the configuration calls for, and that the
        tokenizer, where there is one, fits the model and is harmless.

        Raises `BadInputError` naming the first tensor that is missing, has another shape, or that
        the model does not have; or what is wrong with the tokenizer.
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
        if (self.path / TOKENIZER_NAME).exists():
            check_tokenizer(self.path / TOKENIZER_NAME, self.model.vocab_size)


def read_configuration(path: Path) -> dict[str, Any]:
    """The `config.json` at `path`. Raises `BadInputError` as `read_json`, and for one that consents
    to running code."""
    config = read_json(path)
    _require_no_consent(path, config)
    return config


def has_weights(path: Path) -> bool:
    """Whether the directory `path` holds weights of any kind, or an index of some.

    Without, there is at most a configuration; a download that broke off has an index at least.
    """
    kinds = (".safetensors", ".index.json", ".gguf", *PICKLE_SUFFIXES)
    return any(file.name.endswith(kinds) for file in path.iterdir())


def _require_no_consent(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration that consents to running code in its user's stead.

    `auto_map` stays: every published checkpoint of this family has one, nothing here follows it,
    and the code it names is never copied.
    """
    inner = [value for value in config.values() if isinstance(value, dict)]
    if any("trust_remote_code" in level for level in (config, *inner)):
        raise BadInputError(
            f"{path}: `trust_remote_code` is not for a checkpoint to decide; remove it"
        )


def find_shards(
    path: Path, elsewhere: Collection[str] = ()
) -> tuple[tuple[str, ...], Mapping[str, str] | None]:
    """Names of the shards in the index's order, and its weight map (None for a single file).

    `elsewhere` names files that count as if they were in `path`. Raises `BadInputError` for a name
    that leaves the directory and where there is no safetensors file.
    """
    if (path / INDEX_NAME).is_file():
        weight_map = read_json(path / INDEX_NAME).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BadInputError(f"{path / INDEX_NAME}: `weight_map` is missing or empty")
        for tensor, name in weight_map.items():
            _require_plain_name(path / INDEX_NAME, tensor, name)
        names = tuple(dict.fromkeys(weight_map.values()))
        if len(names) > MAX_SHARDS:
            raise BadInputError(f"{path / INDEX_NAME}: names more than {MAX_SHARDS} shards")
        return names, weight_map
    if SINGLE_NAME in elsewhere or (path / SINGLE_NAME).is_file():
        return (SINGLE_NAME,), None
    here = {file.name for file in path.iterdir()} | set(elsewhere)
    pickles = [name for name in here if Path(name).suffix in PICKLE_SUFFIXES]
    if pickles:
        raise BadInputError(
            f"{path / min(pickles)}: pickle weights can run code and are never loaded; get the "
            "model's safetensors files instead"
        )
    foreign = [name for name in here if name.endswith(".gguf")]
    if foreign:
        raise BadInputError(
            f"{path / min(foreign)}: GGUF files are not read; get the model's safetensors files"
        )
    raise BadInputError(f"{path}: there is no {SINGLE_NAME} or {INDEX_NAME} in it")


def _require_plain_name(index: Path, tensor: str, name: object) -> None:
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise BadInputError(
            f"{index}: tensor {brief(tensor)} points to {brief(name)}; only a *.safetensors "
            "file of the same directory is allowed"
        )


def _match_index(
    path: Path, weight_map: Mapping[str, str] | None, tensors: Mapping[str, TensorInfo]
) -> None:
    if weight_map is None:
        return
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].shard.name != shard:
            raise BadInputError(
                f"{path / shard}: tensor {brief(name)} of the index is not in this shard"
            )
    for name, info in tensors.items():
        if name not in weight_map:
            raise BadInputError(f"{info.shard}: tensor {name} is not in {INDEX_NAME}")


def read_header(shard: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, by offset.

    Checks all that the header claims: offsets inside the file, without hole or overlap, and as long
    as dtype and shape say. Raises `BadInputError` naming the file and the tensor.
    """
    return _read_signed_header(shard)[0]


def _read_signed_header(shard: Path) -> tuple[dict[str, TensorInfo], Signature]:
    """The header, and the signature of the very file it was read from."""
    try:
        with open_inside(shard) as file:
            file_signature = signature(file.fileno())
            start = file.read(8)
            size, length = os.fstat(file.fileno()).st_size, int.from_bytes(start, "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                _refuse_length(shard, start, size)
            text = file.read(length)
    except FileNotFoundError:
        raise BadInputError(f"{shard}: this shard is missing") from None
    except OSError as error:
        raise BadInputError(f"{shard}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadInputError(f"{brief(str(shard), 200)}: no file name: {error}") from error
    return parse_header(shard, size, text), file_signature


def _refuse_length(shard: Path, start: bytes, size: int) -> NoReturn:
    for magic, kind in FOREIGN_MAGIC.items():
        if start.startswith(magic):
            raise BadInputError(f"{shard}: is {kind}, whatever its name; get safetensors files")
    length = int.from_bytes(start, "little")
    if MAX_HEADER_BYTES < length <= size - 8:
        raise BadInputError(
            f"{shard}: its header of {length} bytes is longer than {MAX_HEADER_BYTES}"
        )
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
