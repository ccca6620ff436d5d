"""Write the JSON schemas of every result and of `bundle.json` to `docs/reference/schemas/`.

    python scripts/generate_schemas.py [--out DIRECTORY]     # part of `make docs`

A schema follows from the types in the code, and its descriptions from their docstrings;
`tests/api/test_schemas.py` fails when the files differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints

import msgspec

from nemotron_deploy import api
from nemotron_deploy.core import record
from nemotron_deploy.core.result import Result

OUT = Path(__file__).parents[1] / "docs" / "reference" / "schemas"

Schema = dict[str, Any]


def main() -> None:
    """Write every schema below `--out`, and delete those of results that are gone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    made = schemas()
    for old in {path.name for path in out.glob("*.json")} - made.keys():
        (out / old).unlink()
    for name, schema in made.items():
        (out / name).write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")


def schemas() -> dict[str, Schema]:
    """Every schema by its file's name."""
    kinds = {file_name(kind): result_schema(kind) for kind in sorted(results(), key=file_name)}
    return {"bundle.json": bundle_schema(), **kinds}


def results() -> Iterator[type[Result]]:
    """The results of all commands."""
    for module in pkgutil.iter_modules(api.__path__):
        import_module(f"{api.__name__}.{module.name}")
    waiting = list(Result.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("nemotron_deploy.") and "SCHEMA" in vars(kind):
            yield kind


def file_name(kind: type[Result]) -> str:
    """`BuildResult` is in `build-result.json`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower() + ".json"


def result_schema(kind: type[Result]) -> Schema:
    """The schema of `kind.to_json()`."""
    hints = get_type_hints(kind.DOCUMENT or kind, include_extras=True)
    optional = set() if kind.DOCUMENT else _with_defaults(kind)
    return _described(_object(kind.__name__, hints, optional, kind.SCHEMA), kind.__doc__ or "")


def bundle_schema() -> Schema:
    """The schema of `bundle.json`."""
    kind = record.Record
    hints = get_type_hints(kind, include_extras=True)
    schema = _object(record.RECORD_NAME, hints, _with_defaults(kind), record.SCHEMA)
    for part in (schema, *schema["$defs"].values()):
        del part["properties"]["unknown"]  # holds the keys that the schema does not name
    _described(schema, record.Header.__doc__ or "")
    return _described(schema, kind.__doc__ or "")


def _object(title: str, hints: Mapping[str, Any], optional: set[str], number: int) -> Schema:
    fields = {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}
    fields.pop("made_by", None)
    parts, definitions = msgspec.json.schema_components(
        [_marked(hint) for hint in fields.values()],
        schema_hook=_hook,
        ref_template="#/$defs/{name}",
    )
    for definition in definitions.values():
        _described(definition, definition.get("description", ""))
    return {
        "title": title,
        "description": "",
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "schema": {"const": number},
            "made_by": {"type": "string", "description": "The version that wrote the document."},
            **dict(zip(fields, parts, strict=True)),
        },
        "required": ["schema", "made_by", *(name for name in fields if name not in optional)],
        "$defs": dict(sorted(definitions.items())),
    }


def _with_defaults(kind: type) -> set[str]:
    return {
        row.name
        for row in dataclasses.fields(kind)
        if row.default is not dataclasses.MISSING or row.default_factory is not dataclasses.MISSING
    }


def _marked(hint: Any) -> Any:
    """`hint` with a mark in place of each result, whose schema is in a file of its own."""
    if isinstance(hint, type) and issubclass(hint, Result):
        return type(file_name(hint), (_OtherFile,), {})
    origin = get_origin(hint)
    if origin is None or origin is Annotated:
        return hint
    parts = tuple(part if part is Ellipsis else _marked(part) for part in get_args(hint))
    return Union[parts] if origin in (Union, UnionType) else origin[parts]  # noqa: UP007


class _OtherFile:
    """Base of the marks; the name of a mark is that of the file."""


def _hook(kind: type) -> Schema:
    if issubclass(kind, _OtherFile):
        return {"$ref": kind.__name__}
    if issubclass(kind, Path):
        return {"type": "string"}
    raise NotImplementedError(f"{kind.__name__} has no JSON schema")


def _described(schema: Schema, docstring: str) -> Schema:
    """`schema` with the text of `docstring`, and with that of its section `Attributes:` beside each
    property."""
    whole, _, attributes = inspect.cleandoc(docstring).partition("Attributes:\n")
    schema["description"] = " ".join(whole.split())
    for match in re.finditer(r"^    (\w+): (.+(?:\n {8}.+)*)", attributes, re.MULTILINE):
        if match[1] in schema["properties"]:
            schema["properties"][match[1]]["description"] = " ".join(match[2].split())
    return schema


if __name__ == "__main__":
    main()
