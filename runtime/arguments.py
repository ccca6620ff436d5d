"""Arguments of tool calls: text to JSON values, typed by the tool's declared schema.

Models of this family write arguments as plain text between tags. What a text stands for is decided
by the schema that the client declared for the parameter, never guessed from the text: `007` is a
number where a number is declared and a text everywhere else.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

Schema = Mapping[str, Any]

# What models write is tried as a Python literal; Python's opinion of its style is no news.
warnings.filterwarnings("ignore", category=SyntaxWarning, module="<unknown>")

_WHOLE: Final = re.compile(r"[+-]?[0-9]+")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class _NoMatchError(ValueError):
    """A text is no value of a type."""


def types_of(parameters: Schema, name: str) -> frozenset[str]:
    """The JSON types that the schema `parameters` declares for the parameter `name`; empty where it
    declares none."""
    properties = parameters.get("properties")
    declared = properties.get(name) if isinstance(properties, Mapping) else None
    reached = _reached(declared, parameters, joint=True)
    return frozenset(name for row in reached if isinstance(row, Mapping) for name in _types(row))


def is_text(types: frozenset[str]) -> bool:
    """Whether a parameter of these types takes its text as it is."""
    return types <= {"string"}


def convert(text: str, types: frozenset[str]) -> Any:
    """The value that `text` stands for in a parameter of `types`; the text where it is none."""
    if is_text(types):
        return text
    for name, parse in _PARSERS.items():
        if name in types:
            try:
                return parse(text.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return text


def alternatives(schema: Any, root: Schema) -> list[Any]:
    """The schemas of which a value of `schema` matches one: the members of its unions, and what it
    refers to within `root`."""
    reached = _reached(schema, root, joint=False)
    return [row for row in reached if not _leads_to(row, root, joint=False)]


def _reached(schema: Any, root: Schema, joint: bool) -> list[Any]:
    """`schema`, and every schema that it leads to, each once."""
    reached, seen = [schema], {id(schema)}
    for row in reached:  # grows meanwhile
        for other in _leads_to(row, root, joint):
            if id(other) not in seen:
                seen.add(id(other))
                reached.append(other)
    return reached


def _leads_to(schema: Any, root: Schema, joint: bool) -> list[Any]:
    """The schemas of which one decides the type of a value, where `schema` does not itself; with
    `joint` those, too, that hold together."""
    if not isinstance(schema, Mapping) or schema.get("type") is not None:
        return []
    reference = schema.get("$ref")
    leads_to = [_referenced(reference, root)] if isinstance(reference, str) else []
    for union in ("anyOf", "oneOf", "allOf"):
        members = schema.get(union)
        if isinstance(members, list) and (joint or union != "allOf" or len(members) == 1):
            leads_to += members
    return leads_to


def _types(schema: Schema) -> Iterator[str]:
    """The types that a schema declares itself."""
    declared = schema.get("type")
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, list):
        yield from (name for name in declared if isinstance(name, str))
    if schema.get("nullable") is True:
        yield "null"
    if declared is None:
        listed = schema.get("enum")
        yield from map(_type_of, listed if isinstance(listed, list) else ())
        yield from (_type_of(schema[key]) for key in ("const",) if key in schema)


def _referenced(reference: str, root: Schema) -> Any:
    """What a reference within the schema points to, or None."""
    if not reference.startswith("#"):
        return None
    target: Any = root
    for part in filter(None, reference.removeprefix("#").split("/")):
        key = part.replace("~1", "/").replace("~0", "~")
        target = target.get(key) if isinstance(target, Mapping) else None
    return target


def _type_of(value: Any) -> str:
    kinds: Sequence[tuple[type | tuple[type, ...], str]] = (
        (type(None), "null"), (bool, "boolean"), (int, "integer"), (float, "number"),
        (str, "string"), (list, "array"),
    )  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "object")


def _null(text: str) -> None:
    if text.lower() not in ("null", "none"):
        raise _NoMatchError


def _integer(text: str) -> int:
    if _WHOLE.fullmatch(text):
        return int(text)
    number = _float(text)
    if not number.is_integer():
        raise _NoMatchError
    return int(number)


def _number(text: str) -> int | float:
    return int(text) if _WHOLE.fullmatch(text) else _float(text)


def _float(text: str) -> float:
    if not _NUMBER.fullmatch(text) or not math.isfinite(number := float(text)):
        raise _NoMatchError
    return number


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise _NoMatchError
    return text.lower() == "true"


def _literal(text: str, kind: type[Any]) -> Any:
    """JSON, or the Python literal that models write instead, as a JSON value of type `kind`."""
    try:
        value = json.loads(text)
    except ValueError:
        value = ast.literal_eval(text)
    if not isinstance(value, kind):
        raise _NoMatchError
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except TypeError:  # a set or bytes, which JSON has no value for
        raise _NoMatchError from None


_PARSERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "null": _null,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "object": partial(_literal, kind=dict),
    "array": partial(_literal, kind=list),
}
"""By type, in the order in which the members of a union are tried. A string is what remains."""
