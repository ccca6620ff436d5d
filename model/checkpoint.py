"""Open a Hugging Face safetensors checkpoint: configuration, headers, lazy tensors.

Only headers are read until a tensor is needed. What is unsafe or inconsistent is refused with
the file's or tensor's name: pickles, paths that leave the directory, headers that lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ..core.errors import BadInputError
from ..core.untrusted import open_inside, read_json, require_links_inside
from ..runtime.untrusted import Signature, brief, signature
from .architecture import EMBEDDING, HEAD, Model, generic_name
from .config import read_model
from .contents import (
    COMPANIONS,
    CONFIGURATION,
    INDEX_NAME,
    original_named,
    require_model_directory,
)
from .declared import HF_QUANT_CONFIG
from .difference import differences
from .headers import MAX_TENSORS, TensorInfo, parse_header, read_header
from .quantized import Quantization, read_quantization, require_known_format
from .shards import find_shards
from .spelling import UNQUANTIZED_DTYPES, read_names
from .tokenizer import TOKENIZER_NAME, check_tokenizer

_COMPARED_AT_ONCE: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """A shard that is still elsewhere: the path it will have here, its size and its header."""

    path: Path
    size: int
    header: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint. `tensors` is in file order, shard by shard, by canonical name.

    `quantization` is what it is quantized as, None where it is not. `dropped` is surplus that is
    known, `notes` say in a line each what was read in another spelling or left out, and
    `differences` how the rest differs from `config.json`.
    """

    path: Path
    config: Mapping[str, Any]
    model: Model
    shards: tuple[Path, ...]
    tensors: Mapping[str, TensorInfo]
    signatures: Mapping[Path, Signature] = field(default_factory=dict, repr=False, compare=False)
    """Of each shard that was here, what tells whether it is still the file that was checked."""
    quantization: Quantization | None = None
    dropped: Mapping[str, TensorInfo] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    plain: frozenset[Path] = frozenset()
    """Shards of which all tensors are read, under the names that they have there."""

    @classmethod
    def open(
        cls, path: Path, remote: Sequence[RemoteShard] = (), name: str | None = None
    ) -> Checkpoint:
        """Read configuration and headers of the checkpoint directory `path`, and compare them.

        `remote` replaces shards that are not in `path`; `read` works once they have arrived.
        The model is called `name`, or else after the directory.
        Raises `BadInputError` or `RefusedError` (another architecture) naming file, tensor or key.
        """
        if not path.is_dir():
            raise BadInputError(f"{path}: no such checkpoint directory")
        require_links_inside(path, _is_read)
        require_model_directory(path)
        config = read_configuration(path / CONFIGURATION)
        model = read_model(config, name or path.name)
        shards, stored, signatures = _read_headers(path, remote)
        require_known_format(path, config, stored)
        reading = read_names(stored, model)
        model = reading.model
        decoded = read_quantization(path, config, reading.tensors, model)
        if decoded.quantization is None:
            model = replace(model, config=_without_quantization(model.config))
        dtypes = {
            generic_name(info.name): info.dtype
            for info in decoded.tensors.values()
            if info.dtype in UNQUANTIZED_DTYPES
        }
        used = {info.shard for info in reading.tensors.values()}
        return cls(
            path,
            model.config,
            replace(model, dtypes=dtypes),
            tuple(shard for shard in shards if shard in used),
            reading.tensors,
            signatures,
            decoded.quantization,
            reading.dropped,
            (*model.notes, *reading.notes, *decoded.notes),
            differences(decoded.tensors, model),
            frozenset(shards)
            - {info.shard for name, info in stored.items() if reading.tensors.get(name) != info},
        )

    @property
    def is_quantized(self) -> bool:
        return self.quantization is not None

    @property
    def bytes(self) -> int:
        return sum(info.bytes for info in self.tensors.values())

    def read(self, name: str) -> bytearray:
        """The raw little-endian bytes of tensor `name`."""
        info = self.tensors[name]
        return self._read(info, 0, info.bytes)

    def _read(self, info: TensorInfo, offset: int, size: int) -> bytearray:
        """`size` bytes of the tensor `info` from its byte `offset` on."""
        data = bytearray(size)
        try:
            with open_inside(info.shard) as file:
                self.require_unchanged(info.shard, file.fileno())
                file.seek(info.start + offset)
                view, done = memoryview(data), 0
                while done < len(data):
                    count = file.readinto(view[done:])
                    if not count:
                        break
                    done += count
        except OSError as error:
            raise BadInputError(
                f"{info.shard}: cannot read {info.name}: {error.strerror}"
            ) from error
        if done < len(data):
            raise BadInputError(
                f"{info.shard}: ends in the middle of tensor {info.name}; fetch it again"
            )
        return data

    def require_unchanged(self, shard: Path, descriptor: int) -> None:
        """Raise `BadInputError` when the opened `shard` is not the file whose header was checked.

        Says nothing of a shard that was elsewhere then.
        """
        if self.signatures.get(shard, now := signature(descriptor)) != now:
            raise BadInputError(f"{shard}: changed while it was in use; run the command again")

    def require_agreement(self) -> None:
        """Raise `BadInputError` where names and shapes are not exactly those the configuration
        calls for, saying how they differ."""
        if self.differences:
            raise BadInputError(
                f"{self.path}: differs from its config.json: {'; '.join(self.differences)}"
            )

    def require_unquantized(self) -> None:
        """As `require_complete`; raises `BadInputError` also for a quantized checkpoint."""
        if self.quantization is not None:
            raise BadInputError(
                f"{self.path}: is already quantized; it is {self.quantization.summary}. What works "
                f"instead: build with it as it is, or {original_named(self.path, self.config)}"
            )
        self.require_complete()

    def require_complete(self) -> None:
        """Check that this is a whole model, as its configuration calls for, and that the tokenizer,
        where there is one, fits the model and is harmless.

        Raises `BadInputError` saying how it differs, or what is wrong with the tokenizer, and
        `RefusedError` for a model that is planned only.
        """
        if self.model.planned_only is not None:
            raise self.model.planned_only.refusal(str(self.path))
        self.require_agreement()
        self._require_same_head()
        if (self.path / TOKENIZER_NAME).exists():
            check_tokenizer(self.path / TOKENIZER_NAME, self.model.vocab_size)

    def _require_same_head(self) -> None:
        """Raise `BadInputError` where a head was left out that is not the embedding. Says nothing
        as long as one of them has not arrived."""
        head, embedding = self.dropped.get(HEAD), self.tensors.get(EMBEDDING)
        if head is None or embedding is None:
            return
        if not (head.shard.is_file() and embedding.shard.is_file()):
            return
        for offset in range(0, head.bytes, _COMPARED_AT_ONCE):
            size = min(_COMPARED_AT_ONCE, head.bytes - offset)
            if self._read(head, offset, size) != self._read(embedding, offset, size):
                raise BadInputError(
                    f"{head.shard}: {HEAD} is not equal to the embedding, though "
                    "`tie_word_embeddings` is true; set it to false in config.json to use the head"
                )


def read_configuration(path: Path) -> dict[str, Any]:
    """The `config.json` at `path`. Raises `BadInputError` as `read_json`, and for one that consents
    to running code."""
    config = read_json(path)
    _require_no_consent(path, config)
    return config


def _require_no_consent(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration that consents to running code in its user's stead.

    `auto_map` stays: every published checkpoint of this family has one, nothing here follows it,
    and the code it names is never copied.
    """
    inner = [value for value in config.values() if isinstance(value, dict)]
    if any(level.get("trust_remote_code", False) is not False for level in (config, *inner)):
        raise BadInputError(
            f"{path}: `trust_remote_code` is not for a checkpoint to decide; remove it"
        )


def _read_headers(
    path: Path, remote: Sequence[RemoteShard]
) -> tuple[tuple[Path, ...], dict[str, TensorInfo], dict[Path, Signature]]:
    """The shards in `path`, their tensors by stored name, and the signatures of those here."""
    elsewhere = {shard.path.name: shard for shard in remote}
    names, weight_map = find_shards(path, elsewhere)
    shards = tuple(elsewhere[n].path if n in elsewhere else path / n for n in names)
    stored: dict[str, TensorInfo] = {}
    signatures: dict[Path, Signature] = {}
    for shard in shards:
        absent = elsewhere.get(shard.name)
        if absent:
            header = parse_header(shard, absent.size, absent.header)
        else:
            header, signatures[shard] = read_header(shard)
        if len(stored) + len(header) > MAX_TENSORS:
            raise BadInputError(f"{shard}: the checkpoint has more than {MAX_TENSORS} tensors")
        for name, info in header.items():
            if name in stored:
                raise BadInputError(f"{shard}: tensor {name} is in {stored[name].shard.name}, too")
            stored[name] = info
    _match_index(path, weight_map, stored)
    return shards, stored, signatures


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
            raise BadInputError(
                f"{info.shard}: tensor {name} is not in {INDEX_NAME}; move the index away if the "
                "shards are a whole model, because they are read without one"
            )


def _is_read(name: str) -> bool:
    """Whether a file of this name is read or copied, so that a link of it must lead to one. Shards
    that are in use are opened by their links, and found missing where these lead nowhere."""
    return name in (CONFIGURATION, INDEX_NAME, HF_QUANT_CONFIG, *COMPANIONS)


def _without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "quantization_config"}
