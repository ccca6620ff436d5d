"""A directory of compiled kernels: its index, what tells one kernel from another, its files.

Needs neither torch nor triton: `aot.py` writes such directories, `load.py` loads from them, and a
bundle's check only looks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from .steps import Step

INDEX: Final = "kernels.json"

Identity = tuple[str, tuple[tuple[str, int], ...], tuple[str, ...], int, int]
"""What tells a compiled kernel from all others; the same at build time and at launch."""


class StoreError(RuntimeError):
    """A damaged store; the message names the file."""


def variant(step: Step, types: Iterable[str]) -> dict[str, Any]:
    """A kernel's identity as its record in the index has it."""
    return {
        "kernel": step.kernel,
        "constants": dict(step.constants),
        "types": list(types),
        "warps": step.warps,
        "stages": step.stages,
    }


def identity(step: Step, types: tuple[str, ...]) -> Identity:
    """The identity of a launch with operands of these types."""
    return step.kernel, tuple(sorted(step.constants)), types, step.warps, step.stages


def recorded_identity(record: Mapping[str, Any]) -> Identity:
    """The identity of a kernel in the index."""
    constants = tuple(sorted(record["constants"].items()))
    return record["kernel"], constants, tuple(record["types"]), record["warps"], record["stages"]


def read_index(directory: Path) -> dict[str, Any]:
    """A store's index. Raises StoreError where it is missing or cannot be read."""
    path = directory / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); build the engine again") from error
    if not isinstance(index, dict) or not isinstance(index.get("kernels"), list):
        raise StoreError(f"{path}: is no index of kernels; build the engine again")
    return index


def read_cubin(directory: Path, record: Mapping[str, Any]) -> bytes:
    """A record's cubin, checked against its digest. Raises StoreError where it differs."""
    name = str(record["file"])
    path = directory / name
    if Path(name).name != name:
        raise StoreError(f"{directory / INDEX}: {name!r} is no plain file name")
    try:
        cubin = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error}); build the engine again") from error
    if hashlib.sha256(cubin).hexdigest() != record["sha256"]:
        raise StoreError(f"{path}: is not the file that was built (its digest differs)")
    return cubin
