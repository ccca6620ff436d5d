"""`bundle.json`, the record of a bundle: its types, and how it is read and written.

A record comes with a bundle, and a bundle may come from somebody else. So it is read as data with a
bounded size, against the types below, and every path in it is checked before any file is looked at.
Keys that this version does not know are kept and written back.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta, ValidationError, convert

from ..runtime.untrusted import brief
from .errors import BadInputError
from .migrations import Document, migrated
from .result import MADE_BY
from .untrusted import read_json

RECORD_NAME: Final = "bundle.json"

Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", max_length=64)]
Name = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=253)]

_Record = TypeVar("_Record", "FileRecord", "StageRecord", "Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One file of the bundle; `unknown` holds keys of other versions, here and below."""

    bytes: Size
    sha256: Digest
    unknown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One finished stage.

    Attributes:
        maker: The code that made it: `encoding N` or `sources SHA-256`.
        inputs: SHA-256 of everything else that the result depends on.
        made_by: The version that made it; never compared.
        made: What the stage says about its result.
    """

    maker: str
    inputs: str
    made_by: str
    made: dict[str, Any] | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a build decides before its first stage.

    Attributes:
        name: The bundle's name, for example `nemotron-3-nano-30b-a3b-h100-int4`.
        model_name: The name under which the model is served.
        asked: The options of the build.
        backend: The engine's backend, for example `pytorch`.
        needs: What a server of this bundle needs beyond a released engine.
    """

    name: Name
    model_name: Name
    asked: dict[str, Any]
    backend: str = ""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Header):
    """The record of a bundle.

    Attributes:
        complete: Whether every stage is made.
        files: Every file by its path in the bundle.
        stages: Every stage by its name.
        made_by: The version that wrote the record last.
    """

    complete: bool
    files: dict[str, FileRecord]
    stages: dict[str, StageRecord]
    made_by: str = MADE_BY
    unknown: Mapping[str, Any] = field(default_factory=dict)


def read_record(directory: Path) -> Record:
    """The record of the bundle in `directory`.

    Raises `BadInputError` where there is none, for one of a newer version, and for one that is not
    what these types say.
    """
    path = directory / RECORD_NAME
    if not os.path.lexists(path):
        raise BadInputError(
            f"{directory}: no bundle here (no {RECORD_NAME}); make one with nemo-deploy build"
        )
    return parse_record(read_json(path), path)


def parse_record(document: Document, path: Path) -> Record:
    """The record in the JSON object `document`, read from `path`. Raises as `read_record`."""
    if "schema" not in document:
        raise BadInputError(f"{path}: `schema` is missing; this is not the record of a bundle")
    document = migrated(document, path, MIGRATIONS)
    del document["schema"]
    files, stages = (_rows(document.pop(key, None), f"{path}: `{key}`") for key in _TABLES)
    for name in files:
        _require_inside(name, path)
    record = _read(Record, {**document, "files": {}, "stages": {}}, str(path))
    return dataclasses.replace(
        record,
        files={
            name: _read(FileRecord, row, f"{path}: `files`, {brief(name)}")
            for name, row in files.items()
        },
        stages={
            name: _read(StageRecord, row, f"{path}: `stages`, {brief(name)}")
            for name, row in stages.items()
        },
    )


_TABLES: Final = ("files", "stages")


def _rows(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInputError(f"{where} is missing or not an object")
    return value


def _read(kind: type[_Record], value: object, where: str) -> _Record:
    """`value` as a `kind`; keys that the type does not have go to `unknown`."""
    rows = _rows(value, where)
    known = {row.name for row in fields(kind)} - {"unknown"}
    try:
        record = convert({key: rows[key] for key in rows if key in known}, kind)
    except ValidationError as error:
        raise BadInputError(f"{where}: {error}") from None
    unknown = {key: rows[key] for key in rows if key not in known}
    return dataclasses.replace(record, unknown=unknown)


def to_document(record: Record) -> Document:
    """The JSON object of `record`, with unknown keys where they were."""
    head = _write(record) | {"made_by": MADE_BY}
    files = {name: _write(row) for name, row in sorted(record.files.items())}
    stages = {name: _write(row) for name, row in record.stages.items()}
    return {"schema": SCHEMA, **head, "stages": stages, "files": files}


def _write(record: FileRecord | StageRecord | Record) -> Document:
    known = {row.name: getattr(record, row.name) for row in fields(record)}
    return {**known.pop("unknown"), **known}


def _require_inside(name: str, path: Path) -> None:
    """Raise `BadInputError` for a row that does not name a file below the bundle's directory."""
    parts = name.split("/")
    if (
        _NEVER_IN_A_PATH.search(name)
        or parts[0] == RECORD_NAME
        or any(part in ("", ".", "..") for part in parts)
        or any(len(part.encode()) > MAX_NAME_BYTES for part in parts)
        or len(name.encode()) > MAX_PATH_BYTES
    ):
        raise BadInputError(f"{path}: `files` names {brief(name)}, which is not a file of a bundle")


_NEVER_IN_A_PATH: Final = re.compile(r"[\\\x00-\x1f\x7f\ud800-\udfff]")
"""Backslashes, control characters, and halves of characters that no file name can hold."""

MAX_NAME_BYTES: Final = 255
"""Longest name of a file on Linux."""

MAX_PATH_BYTES: Final = 2048
"""Longest path of a row, well below what Linux opens."""


def _from_schema_1(document: Document) -> Document:
    """Schema 1 digested the version into a stage's inputs and did not say what made the stage.

    Its stages are therefore made again by the next build, and verify until then.
    """
    writer = document.get("made_by", "")
    stages = document.get("stages")
    if not isinstance(stages, dict):
        return document
    named = {
        name: {"maker": writer, "made_by": writer, **row} if isinstance(row, dict) else row
        for name, row in stages.items()
    }
    return {**document, "stages": named}


MIGRATIONS: Final = (_from_schema_1,)

SCHEMA: Final = 1 + len(MIGRATIONS)
