"""The declared schema decides what an argument's text stands for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.runtime.arguments import alternatives, convert, is_text, types_of

DEFINITIONS = {"size": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}


def converted(text: str, schema: object) -> object:
    parameters = {"properties": {"p": schema}, "$defs": DEFINITIONS}
    return convert(text, types_of(parameters, "p"))


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "007", "007"),
        ({"type": "string"}, '"x"', '"x"'),
        ({}, "null", "null"),
        (None, "True", "True"),
        ({"type": "integer"}, " -12 ", -12),
        ({"type": "integer"}, "2.0", 2),
        ({"type": "integer"}, "2.5", "2.5"),
        ({"type": "integer"}, "9" * 5000, "9" * 5000),
        ({"type": "number"}, "2.5", 2.5),
        ({"type": "number"}, "3", 3),
        ({"type": "number"}, "1e999", "1e999"),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "number"}, "٣", "٣"),
        ({"type": "boolean"}, "TRUE", True),
        ({"type": "boolean"}, "1", "1"),
        ({"type": "null"}, "None", None),
        ({"type": "object"}, "[1]", "[1]"),
        ({"type": "object"}, '{"a": NaN}', '{"a": NaN}'),
        ({"type": "object"}, "{'a': (1, None)}", {"a": [1, None]}),
        ({"type": "object"}, "{1, 2}", "{1, 2}"),
        ({"type": "object"}, "{'a': b'1'}", "{'a': b'1'}"),
        ({"type": "object"}, "{'a': open('x')}", "{'a': open('x')}"),
        ({"type": "array"}, '["a", {"b": false}]', ["a", {"b": False}]),
        ({"type": "array"}, "[" * 100_000, "[" * 100_000),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": "string", "nullable": True}, "null", None),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "7", 7),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "x", "x"),
        ({"oneOf": [{"type": "boolean"}, {"type": "array"}]}, "[True]", [True]),
        ({"$ref": "#/$defs/size"}, "7", 7),
        ({"$ref": "#/$defs/loop"}, "7", "7"),
        ({"$ref": "#/$defs/none"}, "7", "7"),
        ({"$ref": "https://example.com/x"}, "7", "7"),
        ({"enum": [1, 2]}, "2", 2),
        ({"enum": ["1", "2"]}, "2", "2"),
        ({"const": True}, "True", True),
    ],
)  # fmt: skip
def test_values(schema: object, text: str, value: object) -> None:
    result = converted(text, schema)
    assert result == value
    assert type(result) is type(value)


def test_text_types_are_known_before_the_value() -> None:
    assert is_text(types_of({"properties": {"p": {"type": "string"}}}, "p"))
    assert is_text(types_of({}, "p"))
    assert is_text(types_of({"properties": []}, "p"))
    assert not is_text(types_of({"properties": {"p": {"type": ["string", "null"]}}}, "p"))


def test_unions_that_refer_to_each_other_are_read_once() -> None:
    """Followed one by one they would be two to the power of 200 schemas."""
    definitions: dict[str, Any] = {
        f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"$ref": f"#/$defs/d{i + 1}"}]}
        for i in range(200)
    }
    definitions["d200"] = {"anyOf": [{"$ref": "#/$defs/d0"}, {"type": "boolean"}]}
    parameters = {"properties": {"p": {"$ref": "#/$defs/d0"}}, "$defs": definitions}
    assert types_of(parameters, "p") == {"boolean"}
    assert alternatives({"$ref": "#/$defs/d0"}, parameters) == [{"type": "boolean"}]


def test_a_declared_type_decides_whatever_else_has_to_hold() -> None:
    schema = {"type": "object", "anyOf": [{"required": ["a"]}, {"type": "string"}]}
    assert types_of({"properties": {"p": schema}}, "p") == {"object"}
    joint = {"allOf": [{"type": "integer"}, {"minimum": 1}]}
    assert alternatives({"oneOf": [schema, joint]}, {}) == [schema, joint]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(value=_JSON, python=st.booleans())
def test_what_is_written_as_json_or_python_is_read_back(value: Any, python: bool) -> None:
    if isinstance(value, dict | list):
        name = "object" if isinstance(value, dict) else "array"
        text = repr(value) if python else json.dumps(value)
        assert converted(text, {"type": name}) == value


@given(text=st.text(), types=st.sets(st.sampled_from(
    ["string", "null", "integer", "number", "boolean", "object", "array", "unknown"]
)))  # fmt: skip
def test_every_text_is_a_value_that_json_can_hold(text: str, types: set[str]) -> None:
    json.dumps(convert(text, frozenset(types)), allow_nan=False)
