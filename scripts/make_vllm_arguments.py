"""Write the table of `vllm.AsyncEngineArgs` of one vLLM release, as a JSON Schema.

    pip download --no-deps --dest WHEELS vllm==0.27.1
    python scripts/make_vllm_arguments.py WHEELS/vllm-0.27.1-*.whl

The sources in the wheel are parsed and nothing of them is run. An annotation that is not made of
plain types and literals accepts anything.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

OUT: Final = Path(__file__).parents[1] / "build" / "engines" / "vllm" / "data"
ARGUMENTS: Final = "vllm/engine/arg_utils.py"
CLASSES: Final = ("EngineArgs", "AsyncEngineArgs")
READ: Final = re.compile(
    r"vllm/(engine/arg_utils|config/\w+|v1/attention/backends/registry"
    r"|model_executor/layers/quantization/__init__)\.py"
)
"""Where the arguments, their defaults and the names in their annotations are defined."""

PLAIN: Final = {
    "str": "string", "bool": "boolean", "int": "integer", "float": "number", "None": "null",
    "dict": "object", "list": "array", "tuple": "array", "set": "array",
}  # fmt: skip
BOUNDS: Final = {
    "gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum",
}  # fmt: skip

Schema = dict[str, Any]


def main() -> None:
    """Write the table of each wheel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheels", type=Path, nargs="+", metavar="WHEEL")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    for wheel in options.wheels:
        version = wheel.name.split("-")[1]
        with ZipFile(wheel) as file:
            names = filter(READ.fullmatch, file.namelist())
            sources = {name: file.read(name).decode() for name in names}
        text = json.dumps(table(version, sources), indent=1) + "\n"
        (options.out / f"engine_args-{version}.schema.json").write_text(text, encoding="utf-8")


def table(version: str, sources: Mapping[str, str]) -> Schema:
    """The schema of the arguments, from the sources by their path."""
    reader = Reader(ast.parse(text) for text in sources.values())
    properties: dict[str, Schema] = {}
    for name in CLASSES:
        for argument, field in reader.classes[name].items():
            if not argument.startswith("_"):
                properties[argument] = reader.schema(field)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Keyword arguments of vllm.AsyncEngineArgs, vLLM {version}",
        "description": (
            f"Read by scripts/make_vllm_arguments.py from {ARGUMENTS} and vllm/config in the wheel "
            f"vllm {version} of PyPI. Classes and values that it does not resolve accept anything."
        ),
        "type": "object",
        "additionalProperties": False,
        "properties": dict(sorted(properties.items())),
    }


class Reader:
    """The classes and the aliases of types in some modules."""

    def __init__(self, modules: Iterator[ast.Module]) -> None:
        self.classes: dict[str, dict[str, ast.AnnAssign]] = {}
        self.aliases: dict[str, ast.expr] = {}
        for module in modules:
            for node in module.body:
                if isinstance(node, ast.ClassDef):
                    self.classes[node.name] = dict(_fields(node))
                elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    self.aliases[node.targets[0].id] = node.value

    def schema(self, field: ast.AnnAssign) -> Schema:
        """What a field accepts; null too where that is its default, whatever its annotation."""
        schema = self._type(field.annotation)
        default = self._default(field)
        bounds = dict(_bounds(default))
        if schema and bounds:
            schema = {**schema, **bounds}
        if schema and _is_none(default):
            schema = _any_of([schema, {"type": "null"}])
        return schema

    def _default(self, field: ast.AnnAssign) -> ast.expr | None:
        """The default of a field, which may be that of a field of another class."""
        value = field.value
        if isinstance(value, ast.Call) and _name(value.func) == "get_field":
            owner, name = value.args
            if isinstance(name, ast.Constant):
                return self._default_of(_name(owner), str(name.value))
        if isinstance(value, ast.Attribute):
            return self._default_of(_name(value.value), value.attr)
        return value

    def _default_of(self, owner: str, name: str) -> ast.expr | None:
        field = self.classes.get(owner, {}).get(name)
        return self._default(field) if field else None

    def _type(self, node: ast.expr) -> Schema:
        """What an annotation accepts; an empty schema accepts anything."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return self._type(ast.parse(node.value, mode="eval").body)
        if isinstance(node, ast.Constant) and node.value is None:
            return {"type": "null"}
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return _any_of([self._type(node.left), self._type(node.right)])
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        name = _name(node)
        if name in PLAIN:
            return {"type": PLAIN[name]}
        return self._type(self.aliases[name]) if name in self.aliases else {}

    def _subscript(self, node: ast.Subscript) -> Schema:
        name = _name(node.value)
        if name == "Literal":
            return self._literal(node.slice)
        if name in ("list", "set"):
            items = self._type(node.slice)
            return {"type": "array", **({"items": items} if items else {})}
        return {"type": PLAIN[name]} if name in PLAIN else {}

    def _literal(self, node: ast.expr) -> Schema:
        values: list[Any] = []
        for each in node.elts if isinstance(node, ast.Tuple) else [node]:
            if isinstance(each, ast.Constant):
                values.append(each.value)
                continue
            other = self._type(each)
            if "enum" not in other:
                return {}
            values += other["enum"]
        return {"enum": values}


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, ast.AnnAssign]]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            yield item.target.id, item


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _keywords(default: ast.expr | None) -> Iterator[tuple[str, Any]]:
    """The constants that pydantic's `Field` is called with, by name."""
    if isinstance(default, ast.Call) and _name(default.func) == "Field":
        for keyword in default.keywords:
            if keyword.arg:
                try:
                    yield keyword.arg, ast.literal_eval(keyword.value)
                except ValueError:
                    continue  # a factory or a name


def _bounds(default: ast.expr | None) -> Iterator[tuple[str, Any]]:
    for name, value in _keywords(default):
        if name in BOUNDS:
            yield BOUNDS[name], value


def _is_none(default: ast.expr | None) -> bool:
    if isinstance(default, ast.Constant):
        return default.value is None
    return ("default", None) in list(_keywords(default))


def _any_of(schemas: list[Schema]) -> Schema:
    """What any of `schemas` accepts, each alternative once."""
    found: list[Schema] = []
    for schema in schemas:
        if not schema:
            return {}
        for each in schema.get("anyOf", [schema]):
            if each not in found:
                found.append(each)
    return found[0] if len(found) == 1 else {"anyOf": found}


if __name__ == "__main__":
    main()
