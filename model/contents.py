"""Recognize what a directory or a file is when it is not the checkpoint that was expected.

People point at adapters, trainers' folders and folders of the hub's cache, and downloads leave
pointers and error pages under a shard's name. Each gets one message: what it is and what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..core.errors import BadInputError
from ..core.untrusted import open_inside, read_json
from ..runtime.untrusted import brief
from .card_metadata import card_metadata

CONFIGURATION: Final = "config.json"
INDEX_NAME: Final = "model.safetensors.index.json"
SINGLE_NAME: Final = "model.safetensors"
CONSOLIDATED_NAME: Final = "consolidated.safetensors"
ADAPTER_NAME: Final = "adapter_config.json"
LEGAL: Final = (
    "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.md", "NOTICE.txt", "Notice.txt",
)  # fmt: skip
"""Where a model's licence and its notices are."""

COMPANIONS: Final = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
    "chat_template.json", *LEGAL,
)  # fmt: skip
"""What belongs to a model besides configuration and shards. Code (`*.py`) never does."""

PICKLE_SUFFIXES: Final = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

START_BYTES: Final = 512
"""How much of a file is looked at to recognize it."""

_MAGIC: Final = {
    b"GGUF": "a GGUF file",
    b"PK\3\4": "a pickle",  # torch.save's archive
    **{bytes((0x80, protocol)): "a pickle" for protocol in range(2, 6)},
    b"\x1f\x8b": "a gzip archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x89HDF": "an HDF5 file",
    b"\0\5\x16\7": "a file of attributes that macOS writes beside another one",
}
"""How files begin that are sometimes given a safetensors file's name."""

PICKLES_REFUSED: Final = (
    "pickle weights can run code and are never loaded; get the model's safetensors files instead"
)
GGUF_REFUSED: Final = "GGUF files are not read; get the model's safetensors files"

_HUB_CACHE: Final = "is a folder of the hub's cache"
_PICKLES: Final = "|".join(suffix[1:] for suffix in PICKLE_SUFFIXES)
_KINDS: Final[Mapping[str, str]] = {
    r"models--.+|snapshots": _HUB_CACHE,
    r"checkpoint-\d+": "is the output folder of a trainer",
    r".+\.distcp": "is a distributed checkpoint of torch (FSDP or Megatron); export it in Hugging "
    "Face's format with the tool that trained it",
    r"iter_\d+|latest_checkpointed_iteration\.txt": "is a Megatron checkpoint; export it with "
    "Megatron-Bridge in Hugging Face's format",
    r".+\.nemo|model_config\.yaml|context": "is a NeMo checkpoint; export it in Hugging Face's "
    "format",
    r"global_step\d+|zero_to_fp32\.py": "is a DeepSpeed checkpoint; convert it with its own "
    "zero_to_fp32.py first",
    r".+\.gguf": f"holds {{}}: {GGUF_REFUSED}",
    rf".+\.(?:{_PICKLES})": f"holds {{}}: {PICKLES_REFUSED}",
}
"""What a directory without config.json is, by a name in it."""

_UNFINISHED: Final = (".incomplete", ".part", ".partial", ".aria2", ".crdownload", ".tmp")
_AGAIN: Final = "download it again, for example with `hf download`"
_MAX_VISITED: Final = 2_000


def stand_in(start: bytes) -> str | None:
    """What a text file beginning with `start` is that stands in a real file's place, and what to
    do; None for any other file."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"version https://git-lfs", b"version https://hawser")):
        return "is a git-lfs pointer, not the file itself; run `git lfs pull` in its directory"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return f"is an HTML page, as a failed download or a login page leaves it; {_AGAIN}"
    if text.startswith((b"<?xml", b"<error")):
        return f"is a server's error message in XML, not the file; {_AGAIN}"
    if re.match(rb'\{\s*"(error|message|detail)"\s*:', text):
        return f"is a server's error message in JSON, not the file; {_AGAIN}"
    return None


def not_safetensors(start: bytes) -> str | None:
    """As `stand_in`, for a file under a shard's name whose header cannot be one."""
    if not start:
        return f"is empty; {_AGAIN}"
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return f"is {kind}, whatever its name; get safetensors files"
    if known := stand_in(start):
        return known
    if len(start) == START_BYTES and not any(start):
        return f"is filled with zeros, as an aborted download leaves it; {_AGAIN}"
    if len(start) > 8 and re.fullmatch(rb"[\t\r\n\x20-\x7e]+", start):
        return f"is a text file beginning with {brief(start.decode(), 30)!r}; {_AGAIN}"
    return None


def require_model_directory(path: Path) -> None:
    """Raise `BadInputError` where the directory `path` is recognized as something else than a
    checkpoint, or where one of its small files is only a stand-in."""
    names = sorted(entry.name for entry in path.iterdir())
    for name in (CONFIGURATION, INDEX_NAME, ADAPTER_NAME, *COMPANIONS):
        if name in names and (path / name).is_file():
            _require_itself(path / name)
    if ADAPTER_NAME in names and not (CONFIGURATION in names and _has_model_weights(names)):
        raise BadInputError(_adapter(path))
    if CONFIGURATION in names:
        return
    kind = _kind(path, names)
    if below := models_below(path):
        raise BadInputError(f"{path}: {kind or 'holds no model itself'}; {did_you_mean(below)}")
    if kind:
        raise BadInputError(f"{path}: {kind}")


def has_weights(path: Path) -> bool:
    """Whether the directory `path` holds weights of any kind, or an index of some.

    Without, there is at most a configuration; a download that broke off has an index at least.
    """
    kinds = (".safetensors", ".index.json", ".gguf", *PICKLE_SUFFIXES)
    return any(
        file.name.endswith(kinds) and not file.name.startswith("._") for file in path.iterdir()
    )


def models_below(path: Path) -> tuple[Path, ...]:
    """Folders below `path`, or beside it in the hub's cache, that look like checkpoints. The last
    save of a trainer comes first."""
    if path.name in ("blobs", "refs") and (path.parent / "snapshots").is_dir():
        path = path.parent / "snapshots"
    found = [folder for folder in _folders(path) if _looks_like_model(folder)]
    return tuple(sorted(found, key=lambda folder: (-_step(folder), str(folder))))


def did_you_mean(folders: Collection[Path]) -> str:
    """The question that names `folders`, the first three of them."""
    shown = " or ".join(str(folder) for folder in list(folders)[:3])
    more = f" (and {len(folders) - 3} more)" if len(folders) > 3 else ""
    return f"did you mean the folder {shown}{more}?"


def download_aborted(path: Path) -> bool:
    """Whether there are traces of a download into the directory `path` that did not end."""
    caches = (path, path / ".cache" / "huggingface" / "download", path.parent.parent / "blobs")
    return any(
        entry.name.endswith(_UNFINISHED)
        for folder in caches
        if folder.is_dir() and (folder.name != "blobs" or path.parent.name == "snapshots")
        for entry in folder.iterdir()
    )


def _require_itself(path: Path) -> None:
    try:
        with open_inside(path) as file:
            start = file.read(START_BYTES)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
    if known := stand_in(start):
        raise BadInputError(f"{path}: {known}")
    if not start and path.name in (CONFIGURATION, INDEX_NAME):
        raise BadInputError(f"{path}: is empty; {_AGAIN}")


def _has_model_weights(names: Collection[str]) -> bool:
    return any(
        name.endswith((".safetensors", ".safetensors.index.json"))
        and not name.startswith(("adapter_", "._"))
        for name in names
    )


def _adapter(path: Path) -> str:
    fields = read_json(path / ADAPTER_NAME)
    kind, base = fields.get("peft_type"), fields.get("base_model_name_or_path")
    of = brief(base) if isinstance(base, str) and base else "a model that it does not name"
    named = f" ({brief(kind)})" if isinstance(kind, str) else ""
    return (
        f"{path}: is an adapter{named} of {of}, not a model; merge it first (peft: "
        "`merge_and_unload()`, then `save_pretrained`) and pass the merged model"
    )


def _kind(path: Path, names: Collection[str]) -> str | None:
    """What a directory without config.json is, by the names in it."""
    if all(name.startswith(".") and name != ".cache" for name in names):
        return f"is empty: there is no {CONFIGURATION} in it"
    if path.name in ("blobs", "refs", "snapshots"):
        return _HUB_CACHE
    for pattern, kind in _KINDS.items():
        if found := next((name for name in names if re.fullmatch(pattern, name)), None):
            return kind.format(found)
    if download_aborted(path):
        return "is an aborted download; run the same `hf download` again, which resumes it"
    if (path.parent / CONFIGURATION).is_file():
        return f"there is no {CONFIGURATION} in it; {did_you_mean([path.parent])}"
    return None


def _folders(path: Path) -> Iterator[Path]:
    """Folders up to three levels below `path`, nearest first; links are not followed."""
    level, visited = [path], 0
    for _ in range(3):
        children: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        visited += 1
                        if visited > _MAX_VISITED:
                            return
                        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                            children.append(Path(entry.path))
            except OSError:
                continue  # unreadable folders hold no model that could be named
        yield from children
        level = children


def _looks_like_model(folder: Path) -> bool:
    try:
        return (folder / CONFIGURATION).is_file() and has_weights(folder)
    except OSError:
        return False


def _step(folder: Path) -> int:
    """The training step in a folder's name, -1 without one."""
    step = re.fullmatch(r"(?:checkpoint|step|epoch|global_step)[-_]?(\d{1,18})", folder.name)
    return int(step[1]) if step else -1


def original_named(path: Path, config: Mapping[str, Any]) -> str:
    """Where the unquantized model is, as far as configuration or model card name it: a clause for
    the end of a message."""
    named = card_metadata(path).get("base_model")
    base = named[0] if isinstance(named, list) and named else named or config.get("_name_or_path")
    if isinstance(base, str) and base.strip():
        return f"use the unquantized original, {brief(base)}"
    return "use the unquantized (BF16) original of this model"
