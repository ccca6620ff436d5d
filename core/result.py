"""What a command gives back: a frozen, typed record that becomes one JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from .. import __version__

MADE_BY = f"nemo-deploy {__version__}"
"""What every document says about the program that wrote it."""


class Result:
    """Base of all results, which are frozen dataclasses.

    `SCHEMA` is the version of the JSON document: raise it when a key disappears or changes its
    meaning, not when one is added.
    """

    SCHEMA: ClassVar[int]

    def to_json(self) -> dict[str, Any]:
        """The JSON document: `schema`, `made_by`, and one key for each field."""
        content: dict[str, Any] = plain(self)
        return {"schema": self.SCHEMA, "made_by": MADE_BY, **content}


def plain(value: Any) -> Any:
    """`value` as JSON types: dataclasses and mappings become objects, sequences arrays, paths and
    enumerations text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value
