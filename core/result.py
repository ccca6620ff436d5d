"""Results of commands: frozen, typed records that become one JSON document each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
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

    DOCUMENT: ClassVar[type | None] = None
    """A `TypedDict` of the document's keys, for a result whose `to_json` is not made of its fields;
    without `schema` and `made_by`."""

    def to_json(self) -> dict[str, Any]:
        """The JSON document: `schema`, `made_by`, and one key for each field."""
        return self.stamped({row.name: plain(getattr(self, row.name)) for row in _fields(self)})

    @classmethod
    def stamped(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """`content` with the schema and the version that wrote it."""
        return {"schema": cls.SCHEMA, "made_by": MADE_BY, **content}


def plain(value: Any) -> Any:
    """`value` as JSON types: results, dataclasses and mappings become objects, sequences arrays,
    paths and enumerations text."""
    if isinstance(value, Result):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in _fields(value)}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def _fields(value: Any) -> tuple[Field[Any], ...]:
    assert is_dataclass(value), "results and their parts are dataclasses"
    return fields(value)
