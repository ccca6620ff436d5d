"""Chat requests in OpenAI's form: checked, and brought into the form that chat templates take."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .arguments import Schema
from .contract import RESPONSE_FORMAT, TOOL_CHOICE
from .errors import RequestError
from .guides import Guide, any_object
from .templates import SPECIAL_TOKENS

Json = Mapping[str, Any]

ROLES: Final = ("system", "developer", "user", "assistant", "tool")

TOOL_CHOICES: Final = ("auto", "none", "required")

THINKING_SWITCH: Final = "enable_thinking"
"""The template argument that turns reasoning on and off, in this family and in most others."""

_TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,128}")

_RESERVED: Final = ("messages", "tools", "add_generation_prompt", *SPECIAL_TOKENS)
"""Template variables that the request sets in other ways."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat request. `messages` and `tools` are as templates take them; `schemas` are the
    parameters of the tools that the answer may call, by name; `template_arguments` are passed to
    the template."""

    messages: Sequence[Json]
    tools: Sequence[Json] = ()
    schemas: Mapping[str, Schema] = field(default_factory=dict)
    template_arguments: Json = field(default_factory=dict)


def read_conversation(
    messages: Any, tools: Any, tool_choice: Any, template_arguments: Any
) -> tuple[Conversation, Guide | None]:
    """The chat request, and the guide that its `tool_choice` needs. The arguments are JSON values
    as clients send them, None where they send none.

    Raises `RequestError` naming the message, the tool or the field.
    """
    given = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(_listed(tools or [], "tools"))]
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in given}
    if len(schemas) < len(given):
        names = [tool["function"]["name"] for tool in given]
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"tools: the name {twice!r} is given twice")
    choice = _tool_choice(tool_choice, schemas)
    if choice == "none":  # the model is not shown what it must not call
        given, schemas = [], {}
    guide = None
    if isinstance(choice, tuple):
        called = {name: schemas[name] for name in choice}
        guide = Guide(TOOL_CHOICE.name, tools=called, several=tool_choice == "required")
    conversation = Conversation(
        read_messages(messages), given, schemas, _template_arguments(template_arguments)
    )
    return conversation, guide


def read_response_format(value: Any) -> Guide | None:
    """The guide that a `response_format` needs: none for text. Raises `RequestError`."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return any_object(RESPONSE_FORMAT.name)
    if kind == "json_schema":
        described = value.get("json_schema")
        schema = described.get("schema") if isinstance(described, Mapping) else None
        if not isinstance(schema, Mapping):
            raise RequestError("response_format: json_schema.schema must be an object")
        if not isinstance(described.get("strict"), bool | None):
            raise RequestError("response_format: json_schema.strict must be true or false")
        return Guide(RESPONSE_FORMAT.name, schema=schema)
    raise RequestError(
        'response_format must be an object whose "type" is text, json_object or json_schema'
    )


def read_messages(messages: Any) -> list[dict[str, Any]]:
    """Messages as templates take them: content as one text, arguments of calls as objects.

    Raises `RequestError` naming the message.
    """
    rows = _listed(messages, "messages")
    if not rows:
        raise RequestError("messages is empty")
    result: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        where = f"messages[{number}]"
        if not isinstance(row, Mapping):
            raise RequestError(f"{where} must be an object")
        message = _message(row, where)
        if message["role"] == "tool" and (
            not result or result[-1]["role"] not in ("assistant", "tool")
        ):
            raise RequestError(
                f"{where}: a tool message must follow the assistant's message with the call"
            )
        result.append(message)
    return result


def _message(row: Json, where: str) -> dict[str, Any]:
    role = row.get("role")
    if role not in ROLES:
        raise RequestError(f"{where}.role must be one of {', '.join(ROLES)}, got {role!r}")
    if row.get("function_call") is not None:
        raise RequestError(f"{where}.function_call is not supported; send tool_calls")
    message: dict[str, Any] = {"role": "system" if role == "developer" else role}
    calls = row.get("tool_calls")
    content = row.get("content")
    if content is None and role == "assistant":
        content = ""
    message["content"] = _text(content, f"{where}.content")
    for name in ("name", "tool_call_id"):
        if row.get(name) is not None:
            message[name] = _string(row[name], f"{where}.{name}")
    if role != "assistant":
        return message
    reasoning = row.get("reasoning_content")
    reasoning = row.get("reasoning") if reasoning is None else reasoning
    if reasoning is not None:
        message["reasoning_content"] = _string(reasoning, f"{where}.reasoning_content")
    if calls:
        listed = _listed(calls, f"{where}.tool_calls")
        message["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(listed)
        ]
    return message


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f'{where} must be an object with "function" and its "name"')
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise RequestError(f"{where}.function.arguments must be a JSON object")
    result = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return result | ({"id": call["id"]} if isinstance(call.get("id"), str) else {})


def _text(content: Any, where: str) -> str:
    """Content as one text; of a list of parts, text parts only, each on lines of its own."""
    if not isinstance(content, list):
        return _string(content, where)
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text":
            raise RequestError(
                f"{where}[{number}] has the type {kind!r}; this model takes parts of type text only"
            )
        texts.append(_string(part.get("text"), f"{where}[{number}].text"))
    return "\n".join(texts)


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, Mapping) or tool.get("type", "function") != "function":
        raise RequestError(f'{where} must be an object whose "type" is function')
    function = tool.get("function")
    if not isinstance(function, Mapping):
        raise RequestError(f"{where}.function must be an object")
    name = function.get("name")
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise RequestError(
            f"{where}.function.name must have 1 to 128 letters, digits, _, . and -, got {name!r}"
        )
    result: dict[str, Any] = {"name": name}
    if function.get("description") is not None:
        result["description"] = _string(function["description"], f"{where}.function.description")
    parameters = function.get("parameters")
    if parameters is None:  # templates read the schema of a function without parameters, too
        parameters = {"type": "object", "properties": {}}
    properties = parameters.get("properties", {}) if isinstance(parameters, Mapping) else None
    if not isinstance(properties, Mapping):
        raise RequestError(f"{where}.function.parameters must be the schema of an object")
    result["parameters"] = parameters
    # `strict` is for the server; templates of this family would print it.
    return {"type": "function", "function": result}


def _tool_choice(choice: Any, schemas: Mapping[str, Schema]) -> str | tuple[str, ...]:
    """`auto` or `none`, or the names of tools of which one must be called."""
    name: Any = None
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
    if choice is None or choice in ("auto", "none"):
        return choice or "auto"
    if choice != "required" and not isinstance(name, str):
        raise RequestError(
            f"tool_choice must be one of {', '.join(TOOL_CHOICES)}, or an object that names a "
            'function: {"type": "function", "function": {"name": …}}'
        )
    if not schemas:
        raise RequestError("tool_choice needs tools to choose from")
    if name is None:
        return tuple(schemas)
    if name not in schemas:
        raise RequestError(
            f"tool_choice names the function {name!r}; the tools are {', '.join(schemas)}"
        )
    return (name,)


def _template_arguments(value: Any) -> Json:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RequestError("chat_template_kwargs must be an object")
    reserved = sorted(set(value) & set(_RESERVED))
    if reserved:
        raise RequestError(f"chat_template_kwargs must not hold {reserved[0]!r}")
    if not isinstance(value.get(THINKING_SWITCH, True), bool):
        raise RequestError(f"chat_template_kwargs: {THINKING_SWITCH} must be true or false")
    return value


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise RequestError(f"{where} must be a list")
    return value


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{where} must be a text")
    return value
