"""Which files of a checkpoint directory hold its weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from ..core.errors import BadInputError
from ..core.untrusted import read_json
from ..runtime.untrusted import brief
from .contents import (
    CONSOLIDATED_NAME,
    GGUF_REFUSED,
    INDEX_NAME,
    PICKLE_SUFFIXES,
    PICKLES_REFUSED,
    SINGLE_NAME,
    download_aborted,
    original_named,
)

MAX_SHARDS: Final = 1_000

_NUMBERED: Final = re.compile(r"(.*?)(\d{1,9})-of-(\d{1,9})\.safetensors")


def find_shards(
    path: Path, elsewhere: Collection[str] = ()
) -> tuple[tuple[str, ...], Mapping[str, str] | None]:
    """Names of the shards in the index's order, and its weight map (None without an index).

    `elsewhere` names files that count as if they were in `path`. Without an index, these are read:
    `model.safetensors`, else a whole set of numbered shards, else the other safetensors files
    (`consolidated.safetensors` only where it is alone). Raises `BadInputError` for a name that
    leaves the directory, for a set that lacks a number, and where there is no safetensors file.
    """
    if (path / INDEX_NAME).is_file():
        return _indexed(path, elsewhere)
    if SINGLE_NAME in elsewhere or (path / SINGLE_NAME).is_file():
        return (SINGLE_NAME,), None
    here = {file.name for file in path.iterdir() if file.is_file()} | set(elsewhere)
    candidates = {
        name
        for name in here
        if name.endswith(".safetensors") and "/" not in name
        if not name.startswith(("._", "adapter_"))
    }
    names = _numbered(path, candidates) or sorted(candidates - {CONSOLIDATED_NAME})
    names = names or sorted(candidates)
    if len(names) > MAX_SHARDS:
        raise BadInputError(f"{path}: holds more than {MAX_SHARDS} shards")
    if names:
        return tuple(names), None
    pickles = [name for name in here if Path(name).suffix in PICKLE_SUFFIXES]
    if pickles:
        raise BadInputError(f"{path / min(pickles)}: {PICKLES_REFUSED}")
    foreign = [name for name in here if name.endswith(".gguf")]
    if foreign:
        raise BadInputError(f"{path / min(foreign)}: {GGUF_REFUSED}; {original_named(path, {})}")
    dangling = sorted(path.glob("*.safetensors"))
    if dangling:
        raise BadInputError(_dangling(dangling[0]))
    raise BadInputError(f"{path}: there is no {SINGLE_NAME} or {INDEX_NAME} in it")


def _dangling(link: Path) -> str:
    return f"{link}: is a link to {link.readlink()}, which is not there"


def missing_shard(shard: Path) -> str:
    """Why the file `shard`, which an index names, may be missing, and what to do."""
    path = shard.parent
    if shard.is_symlink():
        return _dangling(shard)
    message = f"{shard}: this shard is missing"
    if download_aborted(path):
        return f"{message}: the download was aborted; run the same `hf download` again to resume it"
    sets = {_set_of(match) for file in path.iterdir() if (match := _match(file.name))}
    own = _match(shard.name)
    if own and sets and _set_of(own) not in sets:
        return (
            f"{message}: {INDEX_NAME} is of another save than the shards beside it; move the index "
            "away if those are the whole model, because they are read without one"
        )
    return message


def _indexed(path: Path, elsewhere: Collection[str]) -> tuple[tuple[str, ...], Mapping[str, str]]:
    weight_map = read_json(path / INDEX_NAME).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadInputError(f"{path / INDEX_NAME}: `weight_map` is missing or empty")
    for tensor, name in weight_map.items():
        _require_plain_name(path / INDEX_NAME, tensor, name)
    names = tuple(dict.fromkeys(weight_map.values()))
    if len(names) > MAX_SHARDS:
        raise BadInputError(f"{path / INDEX_NAME}: names more than {MAX_SHARDS} shards")
    return names, weight_map


def _match(name: str) -> re.Match[str] | None:
    return _NUMBERED.fullmatch(name)


def _numbered(path: Path, names: Collection[str]) -> list[str]:
    """The one set of numbered shards among `names`, in order; empty where none is numbered.

    Some trainers number ranks in the names, too: such a set is taken as it is, and comparing with
    the configuration shows what it lacks.
    """
    sets: dict[str, list[re.Match[str]]] = {}
    for match in filter(None, map(_match, sorted(names))):
        sets.setdefault(_set_of(match), []).append(match)
    if not sets:
        return []
    if len(sets) > 1:
        first = ", ".join(sorted(shards[0][0] for shards in sets.values())[:3])
        raise BadInputError(
            f"{path}: holds shards of more than one save ({first}) and no {INDEX_NAME}; move away "
            "those that do not belong to the model"
        )
    (shards,) = sets.values()
    if len({shard[1] for shard in shards}) > 1:
        return [shard[0] for shard in shards]
    by_number = {int(shard[2]): shard[0] for shard in shards}
    count, first_number = int(shards[0][3]), 0 if 0 in by_number else 1
    if count > MAX_SHARDS:
        raise BadInputError(f"{path}: its shards are numbered up to more than {MAX_SHARDS}")
    missing = sorted(set(range(first_number, first_number + count)) - by_number.keys())
    if missing:
        number = f"{missing[0]:0{len(shards[0][2])}d}-of-{shards[0][3]}"
        raise BadInputError(
            f"{path / (shards[0][1] + number)}.safetensors: this shard is missing; "
            f"{len(by_number)} of {count} are here, and no {INDEX_NAME}; fetch it again"
        )
    return [by_number[number] for number in sorted(by_number)]


def _set_of(shard: re.Match[str]) -> str:
    """What the names of one save's shards have in common."""
    return re.sub(r"\d+", "#", shard[1]) + shard[3]


def _require_plain_name(index: Path, tensor: str, name: object) -> None:
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
        raise BadInputError(
            f"{index}: tensor {brief(tensor)} points to {brief(name)}; only a *.safetensors "
            "file of the same directory is allowed"
        )
