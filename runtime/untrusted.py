"""Read files that somebody else made: only from inside one directory, bounded, and as data."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NamedTuple

MAX_JSON_VALUES: Final = 1_000_000
"""Most values in one JSON text, which as Python objects stay below 100 MB. The largest real one, a
header of all tensors of Nemotron 3 Super, has 400,000."""

MAX_JSON_DEPTH: Final = 64

SHARD_SUFFIX: Final = ".safetensors"

MAX_JSON_BYTES: Final = 10_000_000
"""Largest file that `read_json` takes; an index of Nemotron 3 Super's tensors has 4 MB."""


class UntrustedError(ValueError):
    """A file is not what it must be: outside its directory, too large, or malformed. Names it."""


class Signature(NamedTuple):
    """What tells whether a path still leads to the file that was opened before."""

    device: int
    inode: int
    size: int
    changed_ns: int


def open_inside(path: Path) -> BufferedReader:
    """Open the regular file `path` for reading; give it to a `with`.

    A symbolic link may lead to a file below the same directory, or, in a snapshot of the Hugging
    Face cache, to `blobs/` beside `snapshots/`; that of a shard to a shard on another disk. Raises
    `UntrustedError` for one that leads anywhere else and for what is no regular file (opening a
    pipe would wait for ever), `OSError` as `open`.
    """
    real = Path(os.path.realpath(path, strict=True))
    _require_inside(path, real)
    # The name was resolved: a link put in its place since then is refused.
    descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UntrustedError(f"{path}: is no regular file")
    return os.fdopen(descriptor, "rb")


def require_links_inside(
    directory: Path, needed: Callable[[str], bool] = lambda name: True
) -> None:
    """Raise `UntrustedError` for a symbolic link in `directory` that `open_inside` would refuse.

    Files that are only copied (a tokenizer, say) would otherwise carry off what a link points to.
    A link that leads nowhere is let be where no file of its name is `needed`.
    """
    with os.scandir(directory) as entries:
        links = [Path(entry.path) for entry in entries if entry.is_symlink()]
    for link in sorted(links):
        if needed(link.name) or link.exists():
            _require_inside(link, Path(os.path.realpath(link)))


def _require_inside(path: Path, real: Path) -> None:
    directory = Path(os.path.realpath(path.parent))
    cache = directory.parent
    blobs = cache.parent / "blobs" if cache.name == "snapshots" else None
    # Weights are read as numbers and nothing else, so no other file can be carried off through one.
    shards = path.suffix == real.suffix == SHARD_SUFFIX
    if not real.is_relative_to(directory) and real.parent != blobs and not shards:
        raise UntrustedError(
            f"{path}: is a link to {real}, outside of the checkpoint; put the file itself there"
        )


def signature(descriptor: int) -> Signature:
    """The signature of an opened file."""
    status = os.fstat(descriptor)
    return Signature(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from `path`. Raises `UntrustedError` when it is missing, huge or malformed."""
    try:
        with open_inside(path) as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise UntrustedError(f"{path}: is too large: over {MAX_JSON_BYTES} bytes")
        value = parse_json(data)
    except FileNotFoundError:
        raise UntrustedError(f"{path.parent}: there is no {path.name} in it") from None
    except (OSError, ValueError) as error:
        raise UntrustedError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UntrustedError(f"{path}: holds no JSON object")
    return value


def parse_json(data: bytes) -> Any:
    """The JSON text `data`, in memory and time proportional to a bounded number of values.

    Raises `ValueError` saying why: not UTF-8, malformed, more than `MAX_JSON_VALUES` values, nested
    deeper than `MAX_JSON_DEPTH`, a key twice in one object, a number that no float holds, NaN.
    """
    # Every value but the first of its container follows a comma: counted before any is made.
    values = data.count(b",") + data.count(b"{") + data.count(b"[")
    if values > MAX_JSON_VALUES:
        raise ValueError(f"more than {MAX_JSON_VALUES} values stand in it")
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=unique_keys,
            parse_float=_finite,
            parse_constant=_constant,
        )
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels") from None
    require_shallow(value)
    return value


def require_shallow(value: Any) -> None:
    """Raise `ValueError` for a JSON value that is nested deeper than `MAX_JSON_DEPTH`."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the JSON decoder. Raises `ValueError` for a key that occurs twice in it."""
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a key stands in it twice: {brief(twice)}")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is out of range")
    return number


def _constant(text: str) -> float:
    # Mamba configurations write the open end of `time_step_limit` as Infinity.
    if text == "NaN":
        raise ValueError("NaN stands in it, which is no number")
    return float(text)


def brief(value: object, limit: int = 60) -> str:
    """`value` for an error message: one short line, whatever it is.

    Control characters are escaped and containers named by their kind, not shown.
    """
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = value if isinstance(value, str) else repr(value)
    text = re.sub(r"[^\x20-\x7e]", lambda found: ascii(found[0])[1:-1], text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"
